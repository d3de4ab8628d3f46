"""The commands of the README's block on what comes after training, each really run on the tiny default."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.core.exit_codes import EXIT_DONE
from tests.conftest import REPOSITORY, MakeOnce
from tests.whole.conftest import Train

pytestmark = pytest.mark.slow
FEW = ("data.max_rows=16", "data.max_eval_rows=2", "run.score_rows=2", "hardware.num_threads=1")
"""What trains does so on few rows; of runs that go on with another's spec, that one has them."""
_BLOCK = re.compile(r"^After training:\n\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of the block."""
    found = _BLOCK.search((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    return found[1].splitlines()


@pytest.fixture(scope="module")
def trained(once: MakeOnce, ftcli_run: Train) -> Path:
    """The folder of a reader who has trained the tiny default."""

    def make(folder: Path) -> None:
        shutil.copy(tiny.set_path("sft", "eval"), folder / "rows.jsonl")
        ftcli_run("train", "recipe=demo", *FEW, cwd=folder)

    return once("reader", make)


def test_the_block_is_found():
    assert len(commands()) >= 12
    assert all(line.startswith("ftcli ") for line in commands())


@pytest.mark.parametrize("command", commands())
def test_a_command_after_training_really_runs(command: str, trained: Path, tmp_path: Path, ftcli_run: Train):
    folder = Path(shutil.copytree(trained, tmp_path / "reader"))
    words = shlex.split(command)[1:]
    if words[:2] == ["train", "recipe=dpo-after-sft"]:
        words += FEW
    done = ftcli_run(*words, cwd=folder, expect=EXIT_DONE)
    assert "Traceback" not in done.stderr
