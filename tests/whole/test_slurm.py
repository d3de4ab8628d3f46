"""A real Slurm: a run is submitted, asked to stop before its limit, requeued, resumed, and learns what it would have.
So does a pipeline, as one job; a sweep is an array; and a job that is cancelled stays so.

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

from ftcli.core.exit_codes import EXIT_CONFIG
from ftcli.runs import rundir
from tests.conftest import REPOSITORY
from tests.ranks import environment

TIMEOUT_SECONDS = 3600
STAGES = (
    "method=rlhf", "method.measure=false", "train.max_steps=2", "train.save_strategy=steps", "train.save_steps=50",
    "train.eval_strategy=no", "run.score_rows=0", "train.per_device_train_batch_size=2", "hardware.num_threads=1",
    "stages.reward.train.max_steps=400", "stages.ppo.method.max_new_tokens=8",
)  # fmt: skip
AS_JOB = ("hardware=slurm", "hardware.num_processes=1", "hardware.device=cpu", "hardware.time_limit=60")
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


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was said to Slurm in these tests, and what came of it."""
    named = os.environ.get("FTCLI_TRANSCRIPT")
    file = Path(named) if named else tmp_path_factory.mktemp("slurm") / "transcript.txt"
    file.write_text("", encoding="utf-8")
    return file


@pytest.fixture
def say(tmp_path: Path, transcript: Path, request: pytest.FixtureRequest) -> Say:
    """Runs a command and takes down what was said."""
    with open(transcript, "a", encoding="utf-8") as opened:
        opened.write(f"# {request.node.name.removeprefix('test_').replace('_', ' ')}\n\n")
    here = environment(PYTHONPATH=os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))

    def run(*words: str, shown: str = "", quiet: bool = False, code: int = 0) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
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


def number_of(told: str) -> str:
    """The number of the job, or of the array, that was submitted."""
    found = re.search(r"job (\d+)", told)
    assert found is not None, told
    return found[1]


def ends(say: Say, job: str, output: Callable[[], str]) -> None:
    """Wait until no task of a job waits or is at work."""
    wait_until(lambda: not say("squeue", "-h", "-j", job, quiet=True), output)


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_a_job_is_signalled_requeued_and_resumed_to_the_weights_of_an_uninterrupted_run(tmp_path: Path, say: Say):
    ftcli = (sys.executable, "-m", "ftcli", "train", *COMMON)
    stop = ("hardware.stop_seconds=60", "hardware.max_requeues=5", "run.dir=job")
    told = say(*ftcli, *AS_JOB, *stop, shown=f"ftcli train … {' '.join((*AS_JOB, *stop))}")
    job, run = number_of(told), tmp_path / "job"
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


def test_a_pipeline_is_one_job_that_is_requeued_in_a_stage_and_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, say: Say
):
    ftcli = (sys.executable, "-m", "ftcli", "train", *STAGES)
    told = say(*ftcli, *AS_JOB, "run.dir=job", shown=f"ftcli train method=rlhf … {' '.join(AS_JOB)} run.dir=job")
    job, folder = number_of(told), tmp_path / "job"

    def output() -> str:
        return "\n".join(file.read_text(errors="replace") for file in folder.glob("slurm-*.txt"))

    wait_until(lambda: any(folder.glob("reward/checkpoints/checkpoint-*")), output)
    say("squeue", "-o", "%i %j %T %l %r")
    say("scancel", "--batch", "--signal=TERM", job)  # as Slurm asks for the stop before the limit
    wait_until(lambda: "Restarts=1" in say("scontrol", "show", "job", job, quiet=True), output)
    say("scontrol", "update", f"JobId={job}", "StartTime=now+10")
    wait_until(lambda: (folder / rundir.RESULT).is_file(), output)
    ends(say, job, output)
    say("sh", "-c", f"scontrol show job {job} | grep -o 'JobState=[A-Z]*\\|Restarts=[0-9]*\\|ExitCode=[0-9:]*'")
    said = say("sh", "-c", "grep -h 'stopped by\\|^stage .*: ' job/slurm-*.txt")
    assert "stopped by SIGTERM" in said
    assert "stage sft: finished" in said
    assert re.search(r"stage reward: resuming from checkpoint-\d+", said)

    say(*ftcli, "hardware=cpu", "run.dir=uninterrupted", quiet=True)
    both = ("job", "uninterrupted")
    files = [f"{name}/{stage}/model/model.safetensors" for stage in ("reward", "ppo") for name in both]
    say("sha256sum", *files)
    digests = [(tmp_path / file).read_bytes() for file in files]
    assert digests[0] == digests[1]
    assert digests[2] == digests[3]


def test_a_sweep_is_an_array_whose_cancelled_task_stays_so_until_the_sweep_is_resumed(tmp_path: Path, say: Say):
    ftcli = (sys.executable, "-m", "ftcli")
    words = ("train.learning_rate=1e-4,1e-3", *AS_JOB, "run.dir=sweep")
    told = say(
        *ftcli, "train", "-m", *COMMON, "train.max_steps=400", "train.logging_steps=1", "train.save_steps=20", *words,
        shown=f"ftcli train -m … {' '.join(words)}",
    )  # fmt: skip
    array, folder = number_of(told), tmp_path / "sweep"
    [first, second] = sorted(each for each in folder.iterdir() if rundir.is_run(each))

    def output() -> str:
        return "\n".join(file.read_text(errors="replace") for file in folder.glob("slurm-*.txt"))

    wait_until(lambda: any(second.glob("checkpoints/checkpoint-*")), output)
    say("squeue", "-o", "%i %j %T %l %r")
    assert f"array {array} is at work" in say(*ftcli, "sweep", "--resume", "sweep", shown="ftcli sweep --resume sweep")
    resume = ("train", "--resume", f"sweep/{second.name}")
    refused = say(*ftcli, *resume, shown=f"ftcli {' '.join(resume)}", code=EXIT_CONFIG)
    assert f"its Slurm job {array}_1 is at work (RUNNING)" in refused
    assert f"scancel {array}_1 ends it" in refused
    say("scancel", f"{array}_1")
    wait_until(lambda: "stopped by SIGTERM" in output(), output)
    ends(say, array, output)
    assert (first / rundir.RESULT).is_file()
    assert not (second / rundir.RESULT).exists()
    again = say(*ftcli, "sweep", "--resume", "sweep", shown="ftcli sweep --resume sweep")
    ends(say, number_of(again), output)
    table = say(*ftcli, "sweep", "--resume", "sweep", shown="ftcli sweep --resume sweep")
    assert "2 of 2 jobs done" in table
    assert table.count("  done") == 2


def test_a_sweep_of_pipelines_is_an_array_whose_tasks_run_all_stages(tmp_path: Path, say: Say):
    ftcli = (sys.executable, "-m", "ftcli")
    words = ("train.learning_rate=1e-4,1e-3", *AS_JOB, "run.dir=sweep")
    typed = (*ftcli, "train", "-m", *STAGES, "stages.reward.train.max_steps=2", *words)
    shown = f"ftcli train -m method=rlhf … {' '.join(words)}"
    dry = say(*typed, "--dry-run", quiet=True)
    array, folder = number_of(say(*typed, shown=shown)), tmp_path / "sweep"
    [script] = folder.glob("*.sbatch")
    assert script.read_text() in dry

    def output() -> str:
        return "\n".join(file.read_text(errors="replace") for file in folder.glob("slurm-*.txt"))

    ends(say, array, output)
    table = say(*ftcli, "sweep", "--resume", "sweep", shown="ftcli sweep --resume sweep")
    assert "2 of 2 jobs done" in table, output()
