"""A resumed run knows what it began with: other tokens are refused, other versions are told and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.worker.process import environment as module
from ftcli.worker.training.run import train

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def half(sft_file: Path, make_spec: Any, new_run: Any, models: dict[str, Path], tmp_path: Path) -> Path:
    """A run with checkpoints, on a model of its own."""
    shutil.copytree(models["llama"], tmp_path / "own")
    run: Path = new_run(make_spec(sft_file, model=tmp_path / "own", train=SAVES), "run")
    train(run)
    return run


def resume(run: Path) -> dict[str, Any]:
    """The environment that the run holds after it was resumed."""
    train(run, run / rundir.CHECKPOINTS / "checkpoint-2")
    return json.loads((run / rundir.ENVIRONMENT).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def kept_files(run: Path) -> dict[str, bytes]:
    """What a refusal leaves as it was: all but the file that says how the last command on the run went."""
    return {path.name: path.read_bytes() for path in run.glob("*.json") if path.name != rundir.PHASES}


def test_nothing_is_said_where_nothing_changed(half, capsys):
    began = json.loads((half / rundir.ENVIRONMENT).read_text(encoding="utf-8"))
    capsys.readouterr()
    assert resume(half) == {**began, "resumed": [{"from": "checkpoint-2", "changed": {}}]}
    assert "began with" not in capsys.readouterr().err


def test_other_versions_and_devices_are_told_and_both_are_kept(half, capsys, monkeypatch):
    began = json.loads((half / rundir.ENVIRONMENT).read_text(encoding="utf-8"))
    own = module.version_of
    newer = {"torch": "9.0.0", "bitsandbytes": None}
    monkeypatch.setattr(module, "version_of", lambda name: newer[name] if name in newer else own(name))
    monkeypatch.setattr(module.platform, "machine", lambda: "riscv64")
    found = resume(half)
    assert found["packages"] == began["packages"]
    was = {name: began["packages"][name] for name in newer}
    changed = {
        "bitsandbytes": [was["bitsandbytes"], "none"],
        "machine": [began["machine"], "riscv64"],
        "torch": [was["torch"], "9.0.0"],
    }
    assert found["resumed"] == [{"from": "checkpoint-2", "changed": changed}]
    assert f"note: the run began with torch {was['torch']}, and goes on with 9.0.0" in capsys.readouterr().err
    assert [each["from"] for each in resume(half)["resumed"]] == ["checkpoint-2"] * 2


def with_template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    file.write_text("{# another #}" + file.read_text(encoding="utf-8"), encoding="utf-8")
    return "the chat template"


def with_token(folder: Path) -> str:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(content), encoding="utf-8")
    return "the tokenizer"


def with_end(folder: Path) -> str:
    file = folder / "generation_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["eos_token_id"] = [content["eos_token_id"], 5]
    file.write_text(json.dumps(content), encoding="utf-8")
    return "its end tokens"


@pytest.mark.parametrize("change", [with_template, with_token, with_end])
def test_what_would_make_other_tokens_is_refused_by_name(change: Callable[[Path], str], half: Path, tmp_path: Path):
    """As where the files are the same to a resume (a hub's, or a library that reads them otherwise)."""
    before = kept_files(half)
    what = change(tmp_path / "own")
    with pytest.raises(ConfigError, match=f"{what} is another than when the run began") as caught:
        resume(half)
    assert f"--from {half}" in str(caught.value)
    assert kept_files(half) == before


@pytest.mark.parametrize("damaged", ["", "[]", '{"packages": 7, "tokens": 7, "resumed": 7, "devices": {}}', "{"])
def test_a_damaged_or_missing_environment_stops_no_resume(damaged, half):
    (half / rundir.ENVIRONMENT).write_text(damaged, encoding="utf-8")
    assert resume(half)["packages"]
    (half / rundir.ENVIRONMENT).unlink()
    assert "resumed" not in resume(half)


def test_a_plugin_whose_files_are_others_is_told(tmp_path):
    began = {
        "schema": rundir.SCHEMAS[rundir.ENVIRONMENT],
        "tokens": {},
        "plugins": {"acme": "folder 01", "b": "folder 2"},
    }
    rundir.write_json(tmp_path / rundir.ENVIRONMENT, began)
    now = {**began, "plugins": {"acme": "folder ff", "b": "folder 2"}}
    kept, told = module.went_on(tmp_path, now, "checkpoint-2")
    assert told == ["began with acme folder 01, and goes on with folder ff"]
    assert kept["resumed"] == [{"from": "checkpoint-2", "changed": {"acme": ["folder 01", "folder ff"]}}]
