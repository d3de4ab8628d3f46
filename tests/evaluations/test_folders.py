"""`ftcli eval --tasks, --measure, --against` on folders that are not finished, not whole or not one's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir

Typed = Callable[..., tuple[int, str, str]]
WAYS = (
    "--measure perplexity --data rows.jsonl",
    "--against builtin:tiny --judge builtin:tiny --data rows.jsonl",
)


@pytest.fixture
def run(here: Path) -> Path:
    """A run that has not written its model."""
    shutil.copy(tiny.set_path("sft", "eval"), here / "rows.jsonl")
    folder = here / "run"
    folder.mkdir()
    spec = spec_of(Request(overrides=("recipe=demo", f"run.dir={folder}")))
    (folder / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def half_finished(_run: Path) -> None:
    pass


def damaged(run: Path) -> None:
    (run / rundir.SPEC).write_text("{", encoding="utf-8")


def strangers(run: Path) -> None:
    os.symlink("/etc/hosts", run / "log.txt")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "what"),
    [(half_finished, "has no model yet"), (damaged, "spec.json"), (strangers, "leads out of the folder")],
)
def test_a_folder_that_is_no_whole_run_is_refused_and_left_alone(make, what, way: str, run: Path, typed: Typed):
    make(run)
    before = content(run)
    code, _, error = typed("eval", "run", *way.split())
    assert code == 2
    assert what in error
    assert content(run) == before


def test_a_run_at_work_is_refused(run: Path, typed: Typed):
    with rundir.exclusive(run):
        before = content(run)
        code, _, error = typed("eval", "run", *WAYS[0].split())
        assert (code, "in use by another process" in error) == (2, True)
        assert content(run) == before


@pytest.mark.parametrize("other", ["builtin:tiny", str(tiny.MODEL_DIR)])
def test_a_model_is_not_compared_with_itself(other: str, run: Path, typed: Typed):
    words = ("--against", other, "--judge", "builtin:tiny", "--data", "rows.jsonl")
    code, out, error = typed("eval", "builtin:tiny", *words)
    assert (code, out) == (2, "")
    assert f"--against {other}  is what is measured itself" in error
    assert "fix: name another run or model" in error
