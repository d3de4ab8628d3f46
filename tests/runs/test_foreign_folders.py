"""The JSON files of a run's or a pipeline's folder are read as a stranger's, whichever of them it is."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli.cli import main
from ftcli.core.errors import ConfigError
from ftcli.core.untrusted import foreign_files
from ftcli.runs import measured_attention, rundir
from tests.conftest import REPOSITORY

STAGE: dict[str, Any] = {"tree": {"train": {}}, "choices": {"method": "sft"}}
FILES: dict[str, Callable[[Path], Any]] = {
    rundir.PIPELINE: rundir.read_pipeline,
    rundir.RESULT: rundir.read_result,
    rundir.ATTENTION: measured_attention.recorded,
}


def deep(file: Path) -> None:
    """Nested more deeply than the interpreter reads."""
    file.write_text("[" * 100_000, encoding="utf-8")


def large(file: Path) -> None:
    """Larger than any that ftcli writes."""
    file.write_bytes(b'{"stages": {' + b" " * foreign_files.MAX_BYTES + b"}}")


@pytest.mark.parametrize("damage", [deep, large, os.mkfifo])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_no_ftcli_wrote_is_damaged(name: str, damage: Callable[[Path], None], tmp_path: Path):
    damage(tmp_path / name)
    if name == rundir.RESULT and damage is os.mkfifo:
        assert FILES[name](tmp_path) is None  # a run without a result
        return
    with pytest.raises(ConfigError, match=r"is damaged|is no file but a pipe"):
        FILES[name](tmp_path)


def test_what_is_neither_file_nor_folder_is_named_before_anybody_waits_for_it(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()
    (tmp_path / "link").symlink_to("model/weights")
    rundir.require_own_files(tmp_path)
    os.mkfifo(tmp_path / "model" / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"model/tokenizer\.json  is no file but a pipe, a socket or a device"):
        rundir.require_own_files(tmp_path)


def test_a_stage_with_settings_has_choices(tmp_path: Path):
    rundir.write_json(tmp_path / rundir.PIPELINE, {"stages": {"sft": STAGE}})
    assert rundir.read_pipeline(tmp_path)["stages"] == {"sft": STAGE}
    rundir.write_json(tmp_path / rundir.PIPELINE, {"stages": {"sft": {"tree": STAGE["tree"]}}})
    with pytest.raises(ConfigError, match="is damaged"):
        rundir.read_pipeline(tmp_path)


def test_a_model_of_another_type_in_a_pipeline_is_told(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "method=rlhf", "run.dir=p", "--dry-run"]) == 0
    from ftcli.config.compose import Request
    from ftcli.pipelines import pipeline_dir
    from ftcli.pipelines.pipeline_request import pipeline_request
    from ftcli.pipelines.stage_specs import pipeline_spec

    wanted = pipeline_request(Request(overrides=("method=rlhf", "run.dir=p")))
    assert wanted is not None
    folder = pipeline_dir.create(pipeline_spec(wanted), ["train", "method=rlhf"])
    state = json.loads((folder / rundir.PIPELINE).read_text(encoding="utf-8"))
    state["stages"]["sft"]["tree"]["model"]["name_or_path"] = ["a"]
    rundir.write_json(folder / rundir.PIPELINE, state)
    assert main(["train", "--from", "p", "--dry-run"]) == 2
    assert "model.name_or_path" in capsys.readouterr().err


def test_no_module_of_the_front_half_reads_a_file_with_a_bare_json_loads():
    """It takes gigabytes where a file says so, and ends in a RecursionError (ftcli/core/untrusted/foreign_files.py)."""
    found = []
    for file in sorted((REPOSITORY / "ftcli").rglob("*.py")):
        if file.is_relative_to(REPOSITORY / "ftcli" / "worker"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            words = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if words.startswith(("json.loads(", "json.load(")) and "read" in words:
                found.append(f"{file.relative_to(REPOSITORY)}:{node.lineno} {words}")
    assert not found
