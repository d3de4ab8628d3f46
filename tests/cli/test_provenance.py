"""`--json` of every command says where a number comes from: the run's directory, its date, its seed and its rates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.cli import COMMANDS, export, generate, main, merge, score
from ftcli.config.compose import Request
from ftcli.launch import worker_request
from ftcli.runs import provenance, rundir
from ftcli.runs.checkpoints import write_manifest
from tests.conftest import REPOSITORY

RUN = "runs/sft-tiny/20260101-120000"
WORDS: dict[str, list[str]] = {
    "check": ["check recipe=demo", "check method=rlhf"],
    "plan": ["plan recipe=demo", "plan method=rlhf"],
    "show": ["show recipe=demo", "show peft recipe=demo", "show method=rlhf"],
    "train": ["train --resume sft-tiny", "train recipe=demo --dry-run", "train --cfg job"],
    "report": ["report sft-tiny"],
    "watch": ["watch", "watch sft-tiny"],
    "runs": ["runs list"],
    "sweep": ["sweep model=tiny seed=1,2 data.eval_share=0.1 --dry-run"],
    "eval": ["eval sft-tiny", "eval sft-tiny --measure perplexity --data rows.jsonl"],
    "merge": ["merge sft-tiny"],
    "export": ["export sft-tiny --to vllm"],
    "push": ["push sft-tiny anna/model --export gguf --dry-run"],
    "generate": ["generate sft-tiny hello", f"generate {RUN} hello"],
    "score": [f"score {RUN}/model rows.jsonl"],
    "verify": ["verify sft-tiny"],
    "data": [
        "data check rows.jsonl --rows-only", "data check rows.jsonl", "data preview rows.jsonl",
        "data dropped sft-tiny",
    ],
}  # fmt: skip
"""Commands that are about a run, begun or composed, as they are typed."""
NO_RUN = {
    "list": "what there is to choose, and the names of runs",
    "doctor": "this machine",
    "recipe": "a file that composes no run by itself",
    "advise": "recipes that nobody has run",
    "plugins": "folders of code",
}
TABLES = {
    "runs": "a row for each run: tested below",
    "sweep": "the same table, of its jobs",
    "reproduce": "of the new run, which only a lock begins",
}
"""Commands about several runs, or about one that no word alone begins."""
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "eval": [{"method": "sft"}],
    "measures": [{"rows": 1, "lines": []}],
    "merge": [{"model": "m"}],
    "generate": [{"prompt": "hello", "answer": "hi"}],
    "score": [{"row": {}, "score": 1.0}],
    "data": [{"train": {}}],
    "preview": [{"pieces": []}],
}
"""What a worker would answer."""


@pytest.fixture
def world(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows and a finished run, and no worker behind the commands."""
    shutil.copy(tiny.set_path("sft", "train"), here / "rows.jsonl")
    run = here / RUN
    shutil.copytree(tiny.MODEL_DIR, run / rundir.MODEL, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    kind = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(tiny.MODEL_DIR), "task_type": "CAUSAL_LM"}
    rundir.write_json(run / rundir.MODEL / "adapter_config.json", kind)
    (run / rundir.MODEL / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    spec = spec_of(Request(overrides=("recipe=demo", "seed=7", "train.learning_rate=3e-3", f"run.dir={run}")))
    rundir.write_atomically(run / rundir.SPEC, spec.to_json())
    rundir.write_atomically(run / rundir.COMMAND, "#!/bin/sh\nftcli train recipe=demo\n")
    trained = {"method": "sft", "model": "builtin:tiny", "peft": "lora"}
    rundir.write_json(run / rundir.RESULT, {**trained, "steps": 30, "seconds": 10.0, "tokens_trained": 5000})
    row = {"where": "rows.jsonl:1", "set": "train", "reason": "too long"}
    (run / rundir.DROPPED).write_text(json.dumps(row) + "\n", encoding="utf-8")

    exported = run / rundir.EXPORTS / "gguf"
    exported.mkdir(parents=True)
    (exported / "model.gguf").write_bytes(b"GGUF")
    write_manifest(exported)

    def answered(command: str, request: object) -> list[dict[str, Any]]:
        return ANSWERS[command]

    for module in (export, merge, generate, score, worker_request):
        monkeypatch.setattr(module, "answers", answered)
    monkeypatch.setattr(score, "check_model", lambda *_: None)
    return here


@pytest.fixture
def told(world: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[Any]]:
    """What a command prints with --json: one value, or one a line."""

    def run(words: str) -> list[Any]:
        code = main([*words.split(), "--json"])
        out = capsys.readouterr().out
        assert code in (0, 5), out  # 5: the planted model is not whole
        try:
            return [json.loads(out)]
        except ValueError:
            return [json.loads(line) for line in out.splitlines()]

    return run


def test_every_command_with_json_is_listed_here():
    sources = {
        name: (REPOSITORY / "ftcli" / "cli" / f"{module}.py").read_text() for name, (module, _) in COMMANDS.items()
    }
    actions = (REPOSITORY / "ftcli" / "cli" / "recipe_actions").glob("*.py")
    sources["recipe"] += "".join(file.read_text() for file in actions)
    known = ("add_json(", "composing(", '"--json"')
    assert {name for name, text in sources.items() if any(word in text for word in known)} == {*WORDS, *NO_RUN, *TABLES}


@pytest.mark.parametrize("words", [words for several in WORDS.values() for words in several])
def test_a_command_about_a_run_says_which(words, told, world: Path):
    if words.startswith("sweep"):
        pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    found = told(words)
    assert found
    for value in found:
        for each in value if isinstance(value, list) else [value]:
            own = each[provenance.KEY]
            assert {"directory", "date"} <= own.keys()
            for one in own.get("stages", {"": own}).values():
                assert {"directory", "date", "seed", "rates"} <= one.keys()
                assert isinstance(one["seed"], int)
                assert one["rates"]["learning_rate"] > 0


def test_the_rates_of_a_finished_run_are_those_it_learned_and_worked_at(told, world: Path):
    [report] = told("report sft-tiny")
    own = report[provenance.KEY]
    assert own["directory"] == str(world / RUN)
    assert own["seed"] == 7
    # 5000 tokens and 30 steps in 10 seconds
    assert own["rates"] == {"learning_rate": 3e-3, "tokens_per_second": 500.0, "steps_per_second": 3.0}
    assert own["date"].endswith("+00:00")


def test_each_row_of_a_table_of_runs_has_that_of_its_run(told, world: Path):
    [rows] = told("runs list")
    assert [row[provenance.KEY]["directory"] for row in rows] == [str(world / RUN)]


def test_a_run_that_has_not_begun_has_no_date(told):
    [check] = told("check recipe=demo seed=3")
    assert (check[provenance.KEY]["date"], check[provenance.KEY]["seed"]) == (None, 3)
