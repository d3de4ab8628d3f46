"""kill -9 at any moment, then --resume: the weights are those of the run that nobody killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST
from tests.conftest import MakeOnce
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment

SAVE_STEPS = 4
# SFT with LoRA and dropout, accumulating, saving every fourth step and in mid-epoch.
COMMAND = (
    "train", "peft=lora", "peft.lora_dropout=0.1", "train.learning_rate=3e-3", "train.max_steps=24",
    f"train.save_steps={SAVE_STEPS}",
    "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "data.max_rows=120",
    "train.eval_strategy=no", "run.score_rows=0", "hardware.num_threads=1",
)  # fmt: skip
SEED = 20261123
KILLS = 100 if os.environ.get("FTCLI_PROOF") else 5
KILLS_INSIDE_A_SAVE = KILLS * 4 // 10


@dataclass(frozen=True)
class Uninterrupted:
    """The run that nobody killed."""

    run: Path
    seconds: float
    weights: bytes


def weights(run: Path) -> bytes:
    """The trained adapter, byte for byte."""
    return (run / rundir.MODEL / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="session")
def uninterrupted(once: MakeOnce) -> Uninterrupted:
    """One whole run, timed."""

    def make(folder: Path) -> None:
        began = time.monotonic()
        command = [sys.executable, "-m", "ftcli", *COMMAND, "run.dir=run"]
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
        (folder / "seconds").write_text(str(time.monotonic() - began), encoding="utf-8")

    folder = once("uninterrupted", make)
    return Uninterrupted(folder / "run", float((folder / "seconds").read_text()), weights(folder / "run"))


def victims(parent: subprocess.Popen[str], target: str) -> list[psutil.Process]:
    """The processes to kill: the worker, its parent, or all of them."""
    try:
        children = psutil.Process(parent.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    own = [psutil.Process(parent.pid)] if parent.poll() is None else []
    return {"worker": children or own, "parent": own, "group": [*children, *own]}[target]


def started(folder: Path) -> subprocess.Popen[str]:
    """The command under way in `folder`, a group of its own, what it says kept."""
    return subprocess.Popen(
        [sys.executable, "-m", "ftcli", *COMMAND, "run.dir=run"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_save(run: Path, number: int, parent: subprocess.Popen[str]) -> None:
    """Return while checkpoint `number` (from 1) is being written."""
    step_before = SAVE_STEPS * (number - 1)
    while parent.poll() is None:
        entries = os.listdir(run / rundir.CHECKPOINTS) if (run / rundir.CHECKPOINTS).is_dir() else []
        newest = max((int(entry.split("-")[1]) for entry in entries if entry.startswith("checkpoint-")), default=0)
        if any(entry.startswith(".staging") for entry in entries) and newest >= step_before:
            return
        time.sleep(0.0005)
    raise AssertionError(f"the run ended before its save {number}")


def settle(run: Path) -> None:
    """Wait until no process works in the run any more: an orphan ends itself within a second."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < until:
        working = [p for p in psutil.process_iter(["cmdline"]) if str(run) in " ".join(p.info["cmdline"] or ())]
        if not working:
            return
        time.sleep(0.05)
    raise AssertionError(f"still at work in {run}: {working}")


def kill_plan() -> list[tuple[int, str, str]]:
    """(number, moment, target) of each kill: some inside a save, the rest uniform over the run's wall time."""
    targets = ["worker", "parent", "group"]
    moments = ["save"] * KILLS_INSIDE_A_SAVE + ["any"] * (KILLS - KILLS_INSIDE_A_SAVE)
    return [(number, moment, targets[number % 3]) for number, moment in enumerate(moments)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "moment", "target"), kill_plan())
def test_a_killed_run_resumes_bit_identically(
    number, moment, target, uninterrupted: Uninterrupted, tmp_path, ftcli_run: Train
):
    chance = random.Random(SEED + number)
    run = tmp_path / "run"
    with started(tmp_path) as parent:
        if moment == "save":
            wait_for_save(run, chance.randint(1, 5), parent)
        else:
            time.sleep(chance.uniform(0, uninterrupted.seconds))
        for victim in victims(parent, target):
            victim.send_signal(signal.SIGKILL)
        parent.wait(timeout=TIMEOUT_SECONDS)
    settle(run)
    if (run / rundir.SPEC).is_file():
        ftcli_run("train", "--resume", "run", cwd=tmp_path)
    else:  # killed before the run was made: there is nothing to resume, and nothing in the way
        ftcli_run(*COMMAND, "run.dir=run", cwd=tmp_path)
    assert weights(run) == uninterrupted.weights
    assert rundir.read_result(run)["loss_last"] == rundir.read_result(uninterrupted.run)["loss_last"]


def flip_a_byte(checkpoint: Path) -> None:
    """Change one bit of the adapter."""
    file = checkpoint / "adapter_model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(bytes(damaged))


def drop_with_its_entry(checkpoint: Path) -> None:
    """Remove what the adapter resumes from, and its line in the manifest, which then agrees with the folder."""
    (checkpoint / "adapter_exact.pt").unlink()
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    del manifest["files"]["adapter_exact.pt"]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def become_a_link(checkpoint: Path) -> None:
    """Move the checkpoint elsewhere in the run, and leave a link to it."""
    checkpoint.symlink_to(checkpoint.rename(checkpoint.with_name("moved")))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "adapter_model.safetensors does not match its sha256"),
        (drop_with_its_entry, "adapter_exact.pt was never saved (the adapter as it was in memory)"),
        (become_a_link, "it is a link, not a folder"),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    damage, reason: str, uninterrupted: Uninterrupted, tmp_path, ftcli_run: Train
):
    shutil.copytree(uninterrupted.run, tmp_path / "run")
    (tmp_path / "run" / rundir.RESULT).unlink()
    shutil.rmtree(tmp_path / "run" / rundir.MODEL)
    damage(tmp_path / "run" / rundir.CHECKPOINTS / "checkpoint-24")
    done = ftcli_run("train", "--resume", "run", cwd=tmp_path)
    assert "checkpoint-24 is damaged" in done.stderr
    assert reason in done.stderr
    assert "from checkpoint-20" in done.stderr
    assert weights(tmp_path / "run") == uninterrupted.weights


def test_from_reproduces_a_run_bit_for_bit(uninterrupted: Uninterrupted, tmp_path, ftcli_run: Train):
    ftcli_run("train", "--from", str(uninterrupted.run), "run.dir=again", cwd=tmp_path)
    assert weights(tmp_path / "again") == uninterrupted.weights


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_checkpoint_no_process_and_says_how_to_go_on(
    number, uninterrupted, tmp_path, ftcli_run: Train
):
    run = tmp_path / "run"
    with started(tmp_path) as parent:
        while not (run / rundir.METRICS).is_file() or not (run / rundir.METRICS).read_text():
            assert parent.poll() is None
            time.sleep(0.01)
        os.kill(parent.pid, number)
        _, said = parent.communicate(timeout=TIMEOUT_SECONDS)
    assert parent.returncode == 75
    assert f"ftcli train --resume {run}" in said
    assert list((run / rundir.CHECKPOINTS).glob("checkpoint-*"))
    settle(run)
    if number == signal.SIGTERM:
        ftcli_run("train", "--resume", "run", cwd=tmp_path)
        assert weights(run) == uninterrupted.weights
