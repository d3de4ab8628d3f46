"""A real Slurm: a run is submitted, asked to stop before its limit, requeued, resumed, and learns what it would have.

`make slurm` starts one on this machine for it. What was said to Slurm and what came of it goes to the file that
FTCLI_TRANSCRIPT names, where it does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.runs import rundir
from tests.conftest import REPOSITORY
from tests.ranks import environment

TIMEOUT_SECONDS = 3600
COMMON = (
    "method=sft", "model=tiny", "peft=lora", "method.packing=false", "data.max_rows=400", "data.max_eval_rows=4",
    "train.max_steps=4000", "train.save_strategy=steps", "train.save_steps=200", "train.logging_steps=200",
    "train.eval_strategy=no", "run.score_rows=0", "train.per_device_train_batch_size=2", "hardware.num_threads=1",
)  # fmt: skip
Say = Callable[..., str]


def why_not() -> str | None:
    """Why there is no live test, or None."""
    if shutil.which("sbatch") is None:
        return "sbatch is not installed: make slurm installs Slurm (Debian, as root) and starts it"
    seen = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=False)
    return None if "idle" in seen.stdout else "no node of a Slurm is idle: make slurm starts one"


@pytest.fixture
def say(tmp_path: Path) -> Say:
    """Runs a command and takes down what was said."""
    transcript = Path(os.environ.get("FTCLI_TRANSCRIPT") or tmp_path / "transcript.txt")
    transcript.write_text("", encoding="utf-8")
    here = environment(PYTHONPATH=os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))

    def run(*words: str, shown: str = "", quiet: bool = False) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        text = (done.stdout + done.stderr).strip()
        if not quiet:
            told = f"$ {shown or ' '.join(words)}\n{text}\n\n".replace(f"{tmp_path}/", "").replace(str(tmp_path), ".")
            with open(transcript, "a", encoding="utf-8") as file:
                file.write(told.replace(sys.executable, "python"))
        return text

    return run


def wait_until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait for an event, and give up after an hour."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < until, what()
        time.sleep(1)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_job_is_signalled_requeued_and_resumed_to_the_weights_of_an_uninterrupted_run(tmp_path: Path, say: Say):
    ftcli = (sys.executable, "-m", "ftcli", "train", *COMMON)
    as_job = ("hardware=slurm", "hardware.num_processes=1", "hardware.device=cpu", "hardware.time_limit=60")
    stop = ("hardware.stop_seconds=60", "hardware.max_requeues=5", "run.dir=job")
    told = say(*ftcli, *as_job, *stop, shown=f"ftcli train … {' '.join((*as_job, *stop))}")
    number = re.search(r"job (\d+)", told)
    assert number is not None, told
    job, run = number[1], tmp_path / "job"
    say("cat", "job/job.sbatch")

    def output() -> str:
        return "\n".join(file.read_text(errors="replace") for file in run.glob("slurm-*.txt"))

    wait_until(lambda: any(run.glob("checkpoints/checkpoint-*")), output)
    say("squeue", "-o", "%i %j %T %l %r")
    # Time to go: Slurm itself then asks for the stop, a minute before the end.
    say("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    wait_until(lambda: "stopped by SIGTERM" in output(), output)
    wait_until(lambda: "Restarts=1" in say("scontrol", "show", "job", job, quiet=True), output)
    # Slurm holds a requeued job for two minutes: one that starts within a second of the requeue counts as revoked.
    say("scontrol", "update", f"JobId={job}", "TimeLimit=60", "StartTime=now+10")
    say("squeue", "-o", "%i %j %T %l %r")

    def ended() -> bool:
        assert "JobState=FAILED" not in say("scontrol", "show", "job", job, quiet=True), output()
        return (run / rundir.RESULT).is_file()

    wait_until(ended, output)
    wait_until(lambda: "COMPLETED" in say("scontrol", "show", "job", job, quiet=True), output)
    shown = re.findall(r"(?:JobState|Restarts|ExitCode)=\S+", say("scontrol", "show", "job", job, quiet=True))
    assert shown[:2] == ["JobState=COMPLETED", "Restarts=1"]
    say("sh", "-c", f"scontrol show job {job} | grep -o 'JobState=[A-Z]*\\|Restarts=[0-9]*\\|ExitCode=[0-9:]*'")
    say("sh", "-c", "grep -h 'stopped by\\|resuming\\|steps' job/slurm-*.txt")
    assert "resuming" in output()

    say(*ftcli, "hardware=cpu", "run.dir=uninterrupted", quiet=True)
    say("sha256sum", "job/model/adapter_model.safetensors", "uninterrupted/model/adapter_model.safetensors")
    ours, theirs = (tmp_path / name / rundir.MODEL / "adapter_model.safetensors" for name in ("job", "uninterrupted"))
    assert ours.read_bytes() == theirs.read_bytes()
