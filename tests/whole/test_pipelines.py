"""RLHF as one command: interrupted in every stage, gone on with, and better after each than before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ftcli import rundir
from tests.whole.conftest import Train, environment

# The built-in default with fewer steps; as it stands it runs under `make proof`.
SHORT = (
    "run.score_rows=64", "stages.sft.train.num_train_epochs=2", "stages.reward.train.max_steps=40",
    "stages.ppo.train.max_steps=64",
)  # fmt: skip
COMMAND = (
    "train", "method=rlhf", "run.dir=whole", "hardware=cpu", "hardware.num_threads=1", "train.save_strategy=steps",
    "train.save_steps=10", "train.eval_strategy=no",
)  # fmt: skip


def interrupted(words: tuple[str, ...], run: Path, number: signal.Signals) -> int:
    """Start a command, send the signal once the run has a checkpoint, and give the exit code."""
    command = [sys.executable, "-m", "ftcli", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    folder = run.parent.parent
    with subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True, **quiet) as parent:
        while parent.poll() is None and not (run / rundir.CHECKPOINTS / "checkpoint-10").is_dir():
            time.sleep(0.01)
        if number == signal.SIGKILL:
            workers = subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=False)
            for pid in (*map(int, workers.stdout.split()), parent.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            parent.send_signal(number)
        return parent.wait()


def test_rlhf_goes_on_from_every_stage_and_its_reward_rises(tmp_path: Path, ftcli_run: Train) -> None:
    short = () if os.environ.get("FTCLI_PROOF") else SHORT
    whole, resume = tmp_path / "whole", ("train", "--resume", "whole")
    assert interrupted((*COMMAND, *short), whole / "sft", signal.SIGKILL) != 0
    assert interrupted(resume, whole / "reward", signal.SIGTERM) == 75
    finished = (whole / "sft" / rundir.RESULT).stat().st_mtime_ns
    assert interrupted(resume, whole / "ppo", signal.SIGKILL) != 0
    assert not (whole / rundir.RESULT).exists()
    said = ftcli_run(*resume, cwd=tmp_path)
    assert (whole / "sft" / rundir.RESULT).stat().st_mtime_ns == finished
    result = json.loads((whole / rundir.RESULT).read_text(encoding="utf-8"))
    measured = result["measure"]["values"]
    assert list(measured) == ["found", "sft", "ppo"]
    assert measured["found"] < measured["sft"] < measured["ppo"]
    assert all(f"after {stage}  {measured[stage]:.3f}" in said.stdout for stage in ("sft", "ppo"))
    assert f"before     {measured['found']:.3f}" in said.stdout
    assert "stage sft: finished" in said.stderr

    other = ftcli_run(
        "train", "--from", "whole", "run.dir=other", "stages.ppo.train.max_steps=2", "stages.ppo.run.score_rows=8",
        cwd=tmp_path,
    )  # fmt: skip
    assert "stage reward: taken over from" in other.stderr
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if path.is_dir()) == ["ppo"]
    measured = json.loads((tmp_path / "other" / rundir.RESULT).read_text(encoding="utf-8"))["measure"]["values"]
    assert list(measured) == ["sft", "ppo"]
