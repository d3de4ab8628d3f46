"""A resume that is refused: the run stays as it was, byte for byte."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.runs import rundir
from tests.whole.conftest import Train, everything

COMMAND = (
    "train", "model.name_or_path=./own", "data.path=rows.jsonl", "run.dir=run", "peft=lora", "train.max_steps=4",
    "train.save_steps=2", "train.eval_strategy=no", "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
LONGER = ("train", "--resume", "run", "train.max_steps=6")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ftcli_run: Train) -> Path:
    """The folder of a finished run, with the model and the rows that it was made of."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(tiny.MODEL_DIR, folder / "own")
    rows = [json.dumps({"prompt": f"Add {i} and 4.", "completion": f"It is {i + 4}."}) + "\n" for i in range(32)]
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    ftcli_run(*COMMAND, cwd=folder)
    return folder


@pytest.fixture
def run(finished: Path) -> Path:
    """The run, for a test that may take away from what is around it what it puts back."""
    return finished / "run"


@pytest.mark.parametrize("held", [rundir.LOCK, rundir.WORKER_LOCK], ids=["command", "worker"])
def test_a_run_that_another_process_works_in_is_left_as_it_is(held: str, run: Path, ftcli_run: Train) -> None:
    with open(run / held, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = everything(run)
        done = ftcli_run(*LONGER, cwd=run.parent, expect=2)
        assert "in use by another process" in done.stderr
        assert everything(run) == before


def test_a_refused_resume_of_a_copy_without_hidden_files_leaves_none(
    run: Path, ftcli_run: Train, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(".*"))
    for checkpoint in (tmp_path / "run" / rundir.CHECKPOINTS).iterdir():
        (checkpoint / "optimizer.pt").write_bytes(b"")
    (tmp_path / "run" / rundir.RESULT).unlink()
    before = {name: content for name, (content, _) in everything(tmp_path / "run").items()}
    ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=5)
    assert {name: content for name, (content, _) in everything(tmp_path / "run").items()} == before


def test_a_dry_resume_says_from_where_how_far_and_changes_nothing(run: Path, ftcli_run: Train) -> None:
    before = everything(run)
    done = ftcli_run(*LONGER, "--dry-run", cwd=run.parent)
    assert "resumes from checkpoint-4: 4 steps done, 2 left" in done.stdout
    assert "steps       6" in done.stdout
    told = json.loads(ftcli_run(*LONGER, "--dry-run", "--json", cwd=run.parent).stdout)
    assert told["resume"] == {"run": str(run), "checkpoint": "checkpoint-4", "steps_done": 4, "steps_left": 2}
    assert told["steps"] == 6
    refused = ftcli_run("train", "--resume", "run", "seed=2", "--dry-run", cwd=run.parent, expect=2)
    assert "cannot change on resume" in refused.stderr
    assert everything(run) == before


@pytest.mark.parametrize(
    "shorter", ["train.max_steps=3", "train.max_steps=1", "train.max_steps=3 --dry-run"], ids=["3", "1", "dry"]
)
def test_fewer_steps_than_were_trained_are_refused_and_the_run_is_left_as_it_is(
    shorter: str, run: Path, ftcli_run: Train
) -> None:
    before = everything(run)
    done = ftcli_run("train", "--resume", "run", *shorter.split(), cwd=run.parent, expect=2)
    assert f"makes {shorter[16]} steps, and {run} has trained 4 already" in done.stderr
    assert f"--from {run} {shorter.split()[0]}" in done.stderr
    assert everything(run) == before


def test_as_many_steps_as_were_trained_leave_a_finished_run_as_it_is(run: Path, ftcli_run: Train) -> None:
    before = everything(run)
    done = ftcli_run("train", "--resume", "run", "train.max_steps=4", cwd=run.parent)
    assert "is finished" in done.stderr
    assert everything(run) == before
    refused = ftcli_run("train", "--resume", "run", "train.num_train_epochs=9", cwd=run.parent, expect=2)
    assert "set train.max_steps, which says how long this run is" in refused.stderr


def test_an_unfinished_run_is_not_resumed_to_before_its_newest_checkpoint(
    run: Path, ftcli_run: Train, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / rundir.RESULT).unlink()
    before = everything(tmp_path)
    done = ftcli_run("train", "--resume", "run", "train.max_steps=3", cwd=tmp_path, expect=2)
    assert "has trained 4 already" in done.stderr
    assert everything(tmp_path) == before


def test_a_dry_resume_of_an_unfinished_run_starts_nothing(run: Path, ftcli_run: Train, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / rundir.RESULT).unlink()
    shutil.rmtree(tmp_path / "run" / rundir.CHECKPOINTS / "checkpoint-4")
    before = everything(tmp_path)
    done = ftcli_run("train", "--resume", "run", "--dry-run", cwd=tmp_path)
    assert "resumes from checkpoint-2: 2 steps done, 2 left" in done.stdout
    assert everything(tmp_path) == before


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(run: Path, ftcli_run: Train, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for checkpoint in (tmp_path / "run" / rundir.CHECKPOINTS).iterdir():
        (checkpoint / "optimizer.pt").write_bytes(b"")
    before = everything(tmp_path / "run")
    done = ftcli_run(*LONGER, cwd=tmp_path, expect=5)
    assert "has no valid checkpoint" in done.stderr
    assert everything(tmp_path / "run") == before


def test_a_run_whose_model_is_gone_is_left_as_it_is(run: Path, ftcli_run: Train) -> None:
    before = everything(run)
    own = (run.parent / "own").rename(run.parent / "away")
    try:
        done = ftcli_run(*LONGER, cwd=run.parent, expect=2)
    finally:
        own.rename(run.parent / "own")
    assert f"model.name_or_path of the run is not here: {run.parent / 'own'}" in done.stderr
    assert everything(run) == before


def test_a_run_is_finished_until_its_worker_trains(run: Path, ftcli_run: Train) -> None:
    """What only the worker can find out costs neither the result nor the spec; and where it trains, both are new."""
    (run / rundir.INPUTS).unlink()  # as a run from before it; otherwise the changed rows are found without a worker
    before = everything(run)
    rows = (run.parent / "rows.jsonl").rename(run.parent / "away.jsonl")
    (run.parent / "rows.jsonl").write_text('{"nonsense": 1}\n' * 32, encoding="utf-8")
    try:
        ftcli_run(*LONGER, cwd=run.parent, expect=3)
    finally:
        rows.rename(run.parent / "rows.jsonl")
    after = everything(run)
    assert after.keys() == before.keys()
    changed = {name for name, (content, _) in after.items() if before[name][0] != content}
    assert changed == {rundir.LOG, rundir.END, rundir.PHASES}  # which say how the last command on the run went
    ftcli_run(*LONGER, cwd=run.parent)
    result = rundir.read_result(run)
    assert result is not None
    assert result["steps"] == 6
