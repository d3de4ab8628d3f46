"""Recipes, group files, rows, models, specs, pipelines and journals as a stranger with bad intent may write them.

A seed draws a kind of file, a sound one of that kind, and a few changes to it: values of other types, numbers that no
float holds, texts that steer a terminal, references and aliases that multiply, paths and addresses elsewhere, tags and
names that reach for code, patterns and templates without end, or bytes that are no text.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.methods import all_methods
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, fields_of

FORGED = "FORGED"
"""No line of what is printed may begin with it."""
MARK = f"\x1b[31m\x9b2J\u202e\u2066\r{FORGED}\n{FORGED}\x07"
PWNED = "PWNED"
"""The file that code of a stranger would make."""
SECRET = "canary-7f3a"
"""The value of an environment variable that nothing may show."""
CODE = f"!!python/object/apply:os.system ['touch {PWNED}']"

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**30, -(10**30), 10**390, 1e308, -1e308, 1e400, float("nan"), 5e-324, "", " ",
    MARK, "\x00", "\ud800", "x" * 5000, "a\tb\nc", "é" * 200, "${train.learning_rate}", "${oc.env:FTCLI_CANARY}",
    "$${x}", "${", "${a}", "${model}", "${model.name_or_path}" * 50, "${hydra:runtime.cwd}", "null", "auto",
    "builtin:tiny", "builtin:nothing", "/etc/passwd", "../outside.jsonl", "~/.ssh/id_rsa", "outside/../../x", ".", "/",
    "http://127.0.0.1:9/x.jsonl", "https://user:pass@127.0.0.1:9/x", "s3://nobody/x.jsonl", "hub:nobody/nothing",
    "org/kernel", "rows.jsonl", "*", "**/*", "[", "rows[", "a" * 300 + "/b", "(a+)+b", "(([a-z._0-9]+)+)+!", "(",
    "(?R)",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ x.__class__ }}",
    "their.jinja",
    "os:system", "os.system", "their_code:run", f"__import__('os').system('touch {PWNED}')", [], {}, [None], [[]],
    {"": ""}, {"_target_": "os.system"}, {"a": {"b": {"c": 1}}}, [1, "a", None, {}], {"type": "openai", "model": "m"},
    {"type": "openai", "base_url": "http://127.0.0.1:9"}, {"path": "/etc/passwd"}, {"nvme_path": "/etc"}, [MARK],
    {MARK: MARK},
    ["q_proj"] * 500, list(range(300)), "1e-5", "1_000", "0x10", "12:30:45", "2026-01-01", "yes", "3.", "-", "+1", "@x",
)  # fmt: skip
"""What stands in place of a value; each is harmful to some reader, or of another type than most."""
KEYS = (
    "_target_",
    "hydra",
    "hydra/launcher",
    "model@x",
    "a.b",
    "",
    MARK,
    "defaults",
    "<<",
    "train.learning_rate",
    "__class__",
)
RAW = (
    b"", b"\xff\xfe", b"\x00", b"---\n---\n", b"- a\n", b"a: &a [*a]\n", b"{" * 3000, b"a: " + b"[" * 3000,
    b"\xef\xbb\xbf",
    b"# @package _global_\n", b"a: 'x\n", b"\t a: 1\n", b"%YAML 9.9\n---\na: 1\n", b"? [a]\n: b\n", b"<<: {a: 1}\n",
    f"x: {CODE}\n".encode(), b"a: &a x\nb: *c\n",
    "".join(["a0: &a0 [1,1,1]\n", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))]).encode(),
    (f"a: &a {'x' * 90_000}\nb: [" + ",".join(["*a"] * 900) + "]\n").encode(),
)  # fmt: skip

Commands = list[list[str]]
Document = dict[str, Any]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        found += _paths(each, (*path, key))
    return found


def changed(chance: random.Random, sound: Document, names: list[str]) -> Document:
    """A document with one to four changes: another value, a value more, a value less, or a name repeated deep inside.

    Args:
        names: dotted names that may be added.
    """
    document = copy.deepcopy(sound)
    for _ in range(chance.randint(1, 4)):
        places = _paths(document)
        if not places or chance.random() < 0.35:
            name = chance.choice(names) if names and chance.random() < 0.8 else chance.choice(KEYS)
            node: Any = document
            *above, last = name.split(".") if name not in KEYS else [name]
            for key in above:
                node = node.setdefault(key, {}) if isinstance(node, dict) else {}
                node = node if isinstance(node, dict) else {}
            node[last] = copy.deepcopy(chance.choice(VALUES))
            continue
        place = chance.choice(places)
        node = document
        for key in place[:-1]:
            node = node[key]
        what = chance.random()
        if what < 0.8:
            node[place[-1]] = copy.deepcopy(chance.choice(VALUES))
        elif what < 0.9 and isinstance(node, dict):
            node[chance.choice(KEYS)] = node.pop(place[-1])
        else:
            del node[place[-1]]
    return document


def _text(chance: random.Random, document: Document) -> bytes:
    """The document as YAML or JSON, now and then with its bytes damaged."""
    if chance.random() < 0.08:
        return chance.choice(RAW)
    text = json.dumps(document, default=str) if chance.random() < 0.5 else _yaml(document)
    raw = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.08 and raw:
        at = chance.randrange(len(raw))
        raw = (
            raw[:at]
            + chance.choice([b"", b"\x00", b"\xff", b"\n", CODE.encode(), b"*a", b"&a ", b"\x1b[2J"])
            + raw[at + 1 :]
        )
    if chance.random() < 0.04:
        raw += chance.choice(RAW)
    return raw


def _yaml(document: Document) -> str:
    try:
        return yaml.safe_dump(document, allow_unicode=False)
    except (yaml.YAMLError, UnicodeEncodeError):
        return json.dumps(document, default=str)


def settings_of(method: str) -> list[str]:
    """The names of settings, as `group.key`."""
    groups = {
        "model": "ftcli.settings.groups:ModelSettings", "data": "ftcli.settings.groups:DataSettings",
        "hardware": "ftcli.settings.groups:HardwareSettings", "run": "ftcli.settings.groups:RunSettings",
        "train": TRAINING_ARGUMENTS, "method": all_methods()[method].config, "peft": "peft:LoraConfig",
    }  # fmt: skip
    return ["seed", *(f"{group}.{key}" for group, config in groups.items() for key in fields_of(config))]


def recipe(chance: random.Random, folder: Path) -> Commands:
    """A recipe of a method or a pipeline."""
    method = chance.choice([*all_methods(), "rlhf", "rlaif", "constitutional"])
    sound: Document = {
        "ftcli": 1, "defaults": [{"method": method}, {"peft": chance.choice(["lora", "none", "ia3", "prompt"])}],
        "train": {"learning_rate": 1e-4, "max_steps": 4}, "data": {"max_rows": 8}, "run": {"name": "theirs"}, "seed": 3,
    }  # fmt: skip
    if method not in all_methods():
        sound["stages"] = {"sft": {"train": {"max_steps": 2}}, "reward": {"data": {"max_rows": 4}}}
        sound["defaults"].append({"judge": chance.choice(["local", "openai", "rules"])})
        sound["judge"] = {"patterns": ["a"], "concurrency": 2}
    names = settings_of(method if method in all_methods() else "sft")
    (folder / "r.yaml").write_bytes(_text(chance, changed(chance, sound, [*names, "stages.sft.train", "judge.model"])))
    command = chance.choice(["check", "plan", "show"])
    return [[command, "recipe=r.yaml", *(["--json"] if chance.random() < 0.3 else [])]]


def group_file(chance: random.Random, folder: Path) -> Commands:
    """A group file of `--config-dir`."""
    group = chance.choice(["model", "data", "peft", "train", "hardware", "method", "quantisation", "judge"])
    name = {"peft": "lora", "method": "sft"}.get(group, "mine")
    sound: dict[str, Document] = {
        "model": {"name_or_path": "builtin:tiny", "shape": {"hidden_size": 8, "model_type": "llama"}, "licence": "mit"},
        "data": {"path": "builtin:tiny", "columns": {"prompt": "a"}}, "peft": {"name": "lora", "r": 4},
        "train": {"learning_rate": 1e-4}, "hardware": {"type": "cpu"}, "method": {"name": "sft"},
        "quantisation": {"type": "none"}, "judge": {"type": "rules", "patterns": ["(a+)+b"]},
    }  # fmt: skip
    file = folder / "conf" / group / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    names = [key.partition(".")[2] for key in settings_of("sft") if key.startswith(f"{group}.")]
    file.write_bytes(_text(chance, changed(chance, sound[group], names)))
    pipeline = ["method=rlaif"] if group == "judge" else []
    return [[chance.choice(["check", "plan"]), f"{group}={name}", *pipeline, "--config-dir", "conf"]]


def rows(chance: random.Random, folder: Path) -> Commands:
    """A file of rows, with odd columns and values."""
    sound: list[Document] = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    if chance.random() < 0.5:
        sound = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 2
    lines = [
        json.dumps(changed(chance, row, ["tools", "chat_template_kwargs", "system", "margin"])) for row in sound * 3
    ]
    ending, text = chance.choice([
        ("jsonl", "\n".join(lines)), ("json", f"[{','.join(lines)}]"),
        ("csv", f"prompt,completion\n{lines[0]},{lines[1]}\n"),
        ("txt", "\n".join(lines)), ("parquet", lines[0]), ("jsonl.gz", lines[0]), ("jsonl.zst", lines[0]),
    ])  # fmt: skip
    raw = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.15 and raw:
        raw = raw[: chance.randrange(len(raw))] + chance.choice(RAW)
    name = chance.choice(["rows", "\x1b[2Jrows", f"a\n{FORGED}", "\u202erows", "rows [1]", "-rows"])
    (folder / "data").mkdir()
    (folder / "data" / f"{name}.{ending}").write_bytes(raw)
    return [[chance.choice(["check", "plan"]), "data.path=data", *chance.choice([[], ["data.max_bad_share=0.9"]])]]


def model(chance: random.Random, folder: Path) -> Commands:
    """A model folder: configuration, tokenizer and template changed."""
    shutil.copytree(tiny.MODEL_DIR, folder / "m")
    (folder / "m" / "model.safetensors").unlink()
    (folder / "m" / "model.safetensors").write_bytes(chance.choice([b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"]))
    files = (
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
    )
    if chance.random() < 0.3:  # an adapter instead
        sound: Document = {"peft_type": "LORA", "base_model_name_or_path": str(tiny.MODEL_DIR), "r": 4,
                           "task_type": "CAUSAL_LM", "target_modules": ["q_proj"],
                           "trainable_token_indices": [1]}  # fmt: skip
        (folder / "m" / "adapter_config.json").write_bytes(_text(chance, changed(chance, sound, [])))
    for name in files:
        file = folder / "m" / name
        if file.is_file() and chance.random() < 0.5:
            sound = json.loads(file.read_text(encoding="utf-8"))
            file.write_bytes(
                _text(
                    chance, changed(chance, sound, ["auto_map", "chat_template", "quantization_config", "text_config"])
                )
            )
    if chance.random() < 0.4:
        (folder / "m" / "chat_template.jinja").write_text(
            str(chance.choice(VALUES)), encoding="utf-8", errors="replace"
        )
    if chance.random() < 0.2:
        (folder / "m" / "model.safetensors.index.json").write_bytes(
            _text(chance, changed(chance, {"weight_map": {"a": "model.safetensors", "b": "../../x"}}, []))
        )
    return [["check", "model.name_or_path=./m", chance.choice(["peft=lora", "peft=none", "method=dpo"])]]


def _spec() -> Document:
    spec = spec_of(Request(overrides=("model=tiny", "peft=lora", "hardware=cpu", "train.max_steps=2", "run.dir=run")))
    found: Document = json.loads(json.dumps(asdict(spec)))
    return found


def run_folder(chance: random.Random, folder: Path) -> Commands:
    """The folder of a run: spec.json, result.json and what stands beside them."""
    run = folder / "run"
    (run / "checkpoints" / "step-2").mkdir(parents=True)
    (run / "spec.json").write_bytes(_text(chance, changed(chance, _spec(), [])))
    sound: Document = {"schema": 1, "seconds": 1.0, "steps": 2, "loss": 0.5, "method": "sft", "checkpoint": "step-2"}
    manifest: Document = {"schema": 1, "step": 2, "files": {"a": {"sha256": "0", "bytes": 1}}}
    for name, each in (("result.json", sound), ("ledger.json", {"train": {"rows": 1}}), ("inputs.json", {"files": {}})):
        if chance.random() < 0.6:
            (run / name).write_bytes(_text(chance, changed(chance, each, [])))
    (run / "checkpoints" / "step-2" / "manifest.json").write_bytes(_text(chance, changed(chance, manifest, [])))
    line = json.dumps(changed(chance, {"schema": 1, "step": 1, "loss": 1.0, "elapsed_seconds": 1.0}, []))
    (run / "metrics.jsonl").write_bytes(f"{line}\n".encode("utf-8", "surrogatepass"))
    return [["report", "run"], ["train", "--from", "run", "--dry-run"], ["check", "model.name_or_path=run"]]


def pipeline_folder(chance: random.Random, folder: Path) -> Commands:
    """The folder of a pipeline: pipeline.json, and stages in it."""
    spec = _spec()
    sound: Document = {
        "schema": 1, "method": "rlhf", "pipeline": "rlhf", "name": "theirs", "built_in": True, "options": {},
        "stages": {name: {"tree": spec["tree"], "choices": spec["choices"], "fed": [], "rows": {}, "ready": None}
                   for name in ("sft", "reward", "ppo")},
    }  # fmt: skip
    place = folder / "pipe"
    (place / "sft").mkdir(parents=True)
    (place / "pipeline.json").write_bytes(_text(chance, changed(chance, sound, [])))
    (place / "sft" / "spec.json").write_bytes(_text(chance, changed(chance, spec, [])))
    return [["report", "pipe"], ["train", "--from", "pipe", "--dry-run"]]


def journal(chance: random.Random, folder: Path) -> Commands:
    """A synthesis stage: make.json, items.jsonl and its result."""
    stage = folder / "pipe" / "preferences"
    stage.mkdir(parents=True)
    sound: Document = {
        "task": "preferences", "seed": 1, "dir": "pipe/preferences", "rows": "builtin:tiny/sft", "role": "judge",
        "backend": {"type": "rules", "patterns": ["a"]}, "settings": {}, "max_rows": 4,
        "choices": {"judge": "rules"}, "schema": 1,
    }  # fmt: skip
    item: Document = {"key": "k", "input": {"prompt": "a", "answers": ["b", "c"]},
                      "row": {"chosen": "b", "rejected": "c"},
                      "replies": [{"asked": "q", "told": "yes"}]}  # fmt: skip
    (folder / "pipe" / "pipeline.json").write_bytes(_text(chance, {"schema": 1, "stages": {}}))
    (stage / "make.json").write_bytes(_text(chance, changed(chance, sound, []) if chance.random() < 0.6 else sound))
    lines = [json.dumps(changed(chance, item, [])) for _ in range(3)]
    (stage / "items.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    result: Document = {
        "schema": 1,
        "rows": 1,
        "items": 3,
        "requests": 2,
        "dropped": {},
        "agreement": {"share": 0.5, "pairs": 2},
    }
    if chance.random() < 0.7:
        (stage / "result.json").write_bytes(_text(chance, changed(chance, result, [])))
    return [["report", "pipe/preferences"], ["report", "pipe/preferences", "--json"]]


KINDS: tuple[Callable[[random.Random, Path], Commands], ...] = (
    recipe, recipe, recipe, group_file, group_file, rows, model, model, run_folder, run_folder, journal,
    pipeline_folder,
)  # fmt: skip


def draw(seed: int, folder: Path) -> tuple[str, Commands]:
    """Write the files of a seed into a folder; returns their kind, and the commands that meet them."""
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 4, encoding="utf-8")
    (folder / "their_code.py").write_text(f"open('{PWNED}', 'w').close()\nrun = print\n", encoding="utf-8")
    (folder / "their.jinja").write_text("{{ ''.__class__ }}", encoding="utf-8")
    return kind.__name__, kind(chance, folder)
