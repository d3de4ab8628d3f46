"""Trained tokens of the demo sets in other tools and here, row by row: what `ftcli recipe import --prove` says.

    python -m benchmarks.proofs --peers FOLDER --demo FOLDER --model FOLDER [--rows 100]
        [--only llama_factory …] [--save]

Each configuration is an example of a tool's own sources, with a demo set in place of its rows and a tokenizer on this
machine in place of its model's; ms-swift has no files of examples there, so its command lines are written out. The
peers' environments are those of tokenise.py (build/peers). Rows that a tool does not read in their shape are made into
turns or pairs first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import RESULTS, save, versions
from ftcli.cli.jobs.imported import imported
from ftcli.core.errors import FtcliError
from ftcli.launch.worker_request import WorkerFailed
from ftcli.proofs.proof import Proof, prove

Rows = list[dict[str, Any]]
_TURNS = {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"}}
_WITH_TOOLS = {
    **{"user": ["human"], "assistant": ["gpt", "function_call"]},
    **{"system": ["system"], "tool": ["observation"]},
}
_CONVERSATIONS = {
    **{"path": "data/rows.jsonl", "type": "chat_template.default", "field_messages": "conversation"},
    **{"field_chosen": "chosen", "field_rejected": "rejected"},
}
_SWIFT = "swift {command} --model {model} --model_type llama --template {template} --tuner_type lora --max_length 2048"


def _as_turns(rows: Rows) -> Rows:
    def asked(row: dict[str, Any]) -> str:
        return "\n".join(part for part in (row["instruction"], row["input"]) if part)

    roles = ("user", "assistant")
    return [
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, (asked(row), row["output"]), strict=True)]}
        for row in rows
    ]


def _as_pairs(rows: Rows) -> Rows:
    names = {"human": "user", "gpt": "assistant", "system": "system"}

    def turn(each: dict[str, str]) -> dict[str, str]:
        return {"role": names[each["from"]], "content": each["value"]}

    return [
        {"prompt": [turn(each) for each in row["conversations"]], **{s: [turn(row[s])] for s in ("chosen", "rejected")}}
        for row in rows
    ]


def _as_rejected_responses(rows: Rows) -> Rows:
    pairs = _as_pairs(rows)
    answers = [each["rejected"][0]["content"] for each in pairs]
    return [
        {"messages": each["prompt"] + each["chosen"], "rejected_response": answer}
        for each, answer in zip(pairs, answers, strict=True)
    ]


def _as_conversations(rows: Rows) -> Rows:
    return [
        {"conversation": each["prompt"], "chosen": each["chosen"][0], "rejected": each["rejected"][0]}
        for each in _as_pairs(rows)
    ]


@dataclass(frozen=True)
class Case:
    """One configuration with one demo set."""

    tool: str
    demo: str
    """The set's file."""
    file: str = ""
    """The configuration, from the folder of examples; "" for a command line of ms-swift."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Keys that the demo set asks for."""
    shape: Callable[[Rows], Rows] | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.file or f"swift {self.changes['command']}"


_LLAMA = "llama-factory/train_lora/qwen3_lora_sft.yaml"
_ZEPHYR = "alignment-handbook/zephyr-7b-beta/{}"


def _llama(demo: str, **changes: Any) -> Case:
    name = demo.partition(".")[0]
    return Case("llama_factory", demo, _LLAMA, {"dataset": name, "dataset_dir": "data", **changes})


def _axolotl(demo: str, file: str, **entry: Any) -> Case:
    return Case("axolotl", demo, f"axolotl/{file}", {"datasets": [{"path": f"data/{demo}", **entry}]})


CASES = (
    _llama("identity.json"),
    _llama("alpaca_en_demo.json"),
    _llama("glaive_toolcall_en_demo.json"),
    _llama("c4_demo.jsonl", stage="pt"),
    _llama("dpo_en_demo.json", stage="dpo"),
    _llama("kto_en_demo.json", stage="kto"),
    _axolotl("identity.json", "llama-3/qlora-1b.yml", type="alpaca"),
    _axolotl("alpaca_en_demo.json", "llama-3/qlora-1b.yml", type="alpaca"),
    Case(
        "axolotl",
        "alpaca_en_demo.json",
        "axolotl/granite4/granite-4.0-tiny-fft.yaml",
        {"datasets": [{"path": "data/rows.jsonl", "type": "chat_template"}]},
        _as_turns,
    ),
    _axolotl(
        "glaive_toolcall_en_demo.json",
        "granite4/granite-4.0-tiny-fft.yaml",
        type="chat_template",
        roles=_WITH_TOOLS,
        **_TURNS,
    ),
    _axolotl("c4_demo.jsonl", "llama-3/qlora-1b.yml", type="completion"),
    Case(
        "axolotl",
        "dpo_en_demo.json",
        "axolotl/llama-3/instruct-dpo-lora-8b.yml",
        {"datasets": [_CONVERSATIONS], "chat_template": "tokenizer_default"},
        _as_conversations,
    ),
    Case("ms_swift", "identity.json", changes={"command": "sft"}),
    Case("ms_swift", "alpaca_en_demo.json", changes={"command": "sft"}),
    Case(
        "ms_swift",
        "glaive_toolcall_en_demo.json",
        changes={"command": "sft --agent_template hermes", "template": "qwen3_nothinking"},
    ),
    Case("ms_swift", "c4_demo.jsonl", changes={"command": "pt"}),
    Case("ms_swift", "dpo_en_demo.json", "", {"command": "rlhf --rlhf_type dpo"}, _as_rejected_responses),
    Case("ms_swift", "kto_en_demo.json", changes={"command": "rlhf --rlhf_type kto"}),
    Case(
        "trl",
        "alpaca_en_demo.json",
        _ZEPHYR.format("sft/config_qlora.yaml"),
        {"dataset_mixture": None, "dataset_name": "data/rows.jsonl", "chat_template": None},
        _as_turns,
    ),
    Case(
        "trl",
        "c4_demo.jsonl",
        _ZEPHYR.format("sft/config_qlora.yaml"),
        {"dataset_mixture": None, "dataset_name": "data/c4_demo.jsonl", "chat_template": None},
    ),
    Case(
        "trl",
        "dpo_en_demo.json",
        _ZEPHYR.format("dpo/config_full.yaml"),
        {"dataset_mixture": None, "dataset_name": "data/rows.jsonl", "chat_template": None},
        _as_pairs,
    ),
)


def written(case: Case, peers: Path, demo: Path, model: Path, folder: Path) -> Path:
    """The configuration of a case, with its rows beside it."""
    data = folder / "data"
    shutil.copytree(demo, data)
    if case.shape is not None:
        rows = case.shape(json.loads((demo / case.demo).read_text(encoding="utf-8")))
        (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if not case.file:
        script = folder / "theirs.sh"
        command = _SWIFT.format(model=model, **{"template": "chatml", **case.changes})
        name = "rows.jsonl" if case.shape else case.demo
        script.write_text(f"{command} --dataset data/{name} --learning_rate 1e-4\n", encoding="utf-8")
        return script
    settings = yaml.safe_load((peers / case.file).read_text(encoding="utf-8"))
    name = "base_model" if "base_model" in settings else "model_name_or_path"
    settings |= {**case.changes, name: str(model)}
    # What belongs to the model of the example, and not to the one in its place.
    for key in ("special_tokens", "model_type", "tokenizer_type", "model_revision"):
        settings.pop(key, None)
    settings = {key: value for key, value in settings.items() if value is not None}
    target = folder / Path(case.file).name
    target.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return target


def measured(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """What the proof of a case says, or why there is none."""
    about = {"tool": case.tool, "configuration": case.name, "set": case.demo, "as": _shape(case)}
    with tempfile.TemporaryDirectory() as folder:
        file = written(case, options.peers, options.demo, options.model, Path(folder))
        try:
            found = prove(imported(file, case.tool, Path(folder)).conversion, None, options.rows)
        except FtcliError as error:
            return {**about, "error": error.problems[0].what}
        except WorkerFailed as failed:
            return {**about, "error": f"ftcli ended with {failed.code}"}
    return {**about, **_counts(found)}


def _shape(case: Case) -> str:
    return "" if case.shape is None else case.shape.__name__.removeprefix("_as_").replace("_", " ")


def _counts(found: Proof) -> dict[str, Any]:
    counted: dict[str, Any] = {"version": found.version, "rows": found.rows, "alike": found.alike}
    counted["left_out_by_both"] = found.left_out_by_both
    ours, theirs = found.tokens
    kinds = {each.kind: each.rows for each in found.examples}
    first = {each.kind: _first(found, each.kind) for each in found.examples}
    return {**counted, "trained": {"ours": ours, "theirs": theirs}, "kinds": kinds, "first": first}


def _first(found: Proof, kind: str) -> dict[str, str]:
    [each] = [each for each in found.examples if each.kind == kind]
    sides = (("there", each.theirs), ("here", each.ours))
    shown = {side: " ".join(f"⟦{text}⟧" if trained else text for text, trained in tokens) for side, tokens in sides}
    return {**shown, "said": each.said}


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for case in CASES:
        if case.tool in options.only and (options.set is None or case.demo.startswith(options.set)):
            yield case


def main() -> None:
    """Prove the cases one by one, and print or save what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tools = list(dict.fromkeys(case.tool for case in CASES))
    parser.add_argument("--peers", type=Path, required=True, help="folder of the tools' examples")
    parser.add_argument("--demo", type=Path, required=True, help="folder of the demo sets")
    parser.add_argument("--model", type=Path, required=True, help="folder with a model's tokenizer and template")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=tools, default=tools)
    parser.add_argument("--set", help="only sets whose name begins so")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/proofs.json")
    options = parser.parse_args()
    found = []
    for case in _cases(options):
        found.append(measured(case, options))
        print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    if options.save:
        model = {"tokenizer": options.model.name, "rows": options.rows}
        save("proofs", {"schema": 1, **model, "cases": _with_others(found), "versions": versions()})


def _with_others(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases measured now, among those that the file has already, in the order of CASES."""
    path = RESULTS / "proofs.json"
    there = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else []
    every = {_key(each): each for each in (*there, *found)}
    order = [(case.tool, case.name, case.demo, _shape(case)) for case in CASES]
    return [every[key] for key in order if key in every]


def _key(each: dict[str, Any]) -> tuple[str, str, str, str]:
    return each["tool"], each["configuration"], each["set"], each["as"]


if __name__ == "__main__":
    main()
