"""A run whose files beside its checkpoints were damaged goes on, or says which file it was and what to do.

tests/chaos/damage.py damages the checkpoints themselves, and tests/cli/test_strange_runs.py asks the front half alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.runs import rundir
from tests.cli.strange_runs import BEFORE, DAMAGE, RETENTION
from tests.conftest import MakeOnce
from tests.whole.conftest import Train

pytestmark = pytest.mark.slow
WORDS = (
    "train", "peft=lora", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=16", "data.max_eval_rows=2",
    "run.score_rows=2", "run.gate={retention: -50.0}", "train.max_steps=2", "train.save_strategy=steps",
    "train.save_steps=1", "train.eval_strategy=no", "run.dir=run",
)  # fmt: skip
NEEDED = {BEFORE: "remove it; the run then goes on without", RETENTION: "start a new run with ftcli train --from"}
"""Files without whose content a resumed run would tell something wrong, and the remedy that is named."""
WRITTEN_ANEW = (rundir.LEDGER, rundir.ANSWERS, rundir.PHASES, rundir.DROPPED)


@pytest.fixture(scope="module")
def stopped(once: MakeOnce, ftcli_run: Train) -> Path:
    """The folder of a run that was killed after its first checkpoint."""

    def make(folder: Path) -> None:
        ftcli_run(*WORDS, cwd=folder)
        run = folder / "run"
        shutil.rmtree(run / rundir.MODEL)
        shutil.rmtree(run / rundir.CHECKPOINTS / "checkpoint-2")
        for name in (rundir.RESULT, rundir.END):
            (run / name).unlink()

    return once("stopped", make)


@pytest.mark.parametrize("damage", ["cut", "list", "deep"])
@pytest.mark.parametrize("file", NEEDED)
def test_one_that_is_needed_is_named_with_the_remedy(
    file: str, damage: str, stopped: Path, tmp_path: Path, ftcli_run: Train
):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    DAMAGE[damage](run / file)
    kept = (run / file).read_bytes(), (run / rundir.METRICS).read_bytes()
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_CONFIG).stderr
    assert f"{run / file}  is damaged" in said
    assert f"fix: {NEEDED[file]}" in said
    assert "Traceback" not in said
    assert kept == ((run / file).read_bytes(), (run / rundir.METRICS).read_bytes())
    assert not (run / rundir.RESULT).exists()


@pytest.mark.parametrize("damage", ["list", "deep"])
def test_those_that_are_written_anew_do_not_stop_it(damage: str, stopped: Path, tmp_path: Path, ftcli_run: Train):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    for file in WRITTEN_ANEW:
        DAMAGE[damage](run / file)
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_DONE).stderr
    assert "Traceback" not in said
    result = rundir.read_result(run)
    assert result is not None
    assert result["steps"] == 2


def test_a_pipe_in_its_place_is_named_and_not_waited_for(stopped: Path, tmp_path: Path, ftcli_run: Train):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    DAMAGE["pipe"](run / rundir.DROPPED)
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_CONFIG).stderr
    assert f"{run / rundir.DROPPED}  is no file but a pipe" in said
