"""Two machines, here two sessions that meet on loopback: stopped, resumed, one of them killed, and the same model.

Real processes from the first to the last: this is about launchers, signals and kills.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from ftcli.runs import rundir
from tests.ranks import TIMEOUT_SECONDS, Ranks, environment

COMMON = (
    "model=tiny", "peft=lora", "method.packing=false", "data.max_rows=64", "data.max_eval_rows=4", "train.max_steps=16",
    "train.save_strategy=steps", "train.save_steps=2", "train.save_total_limit=20", "train.logging_steps=1",
    "train.eval_strategy=no", "run.score_rows=0", "train.per_device_train_batch_size=2", "hardware.device=cpu",
    "hardware.num_threads=1",
)  # fmt: skip


class Machines:
    """Starts ftcli as on machines of their own, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun = folder, 0
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """One more ftcli, in a session of its own."""
        self.begun += 1
        command = [sys.executable, "-m", "ftcli", "train", *words]
        with open(self.folder / f"machine-{self.begun}.txt", "wb") as log:
            how: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True, "env": environment()}
            self.running.append(subprocess.Popen(command, cwd=self.folder, **how))
        return self.running[-1]

    def output(self) -> str:
        """What all of them wrote so far."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("machine-*.txt")))


def switch_off(process: subprocess.Popen[bytes]) -> None:
    """End all that a machine runs, as its power would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """All that is still running at the end is ended."""
    found = Machines(tmp_path)
    yield found
    for process in found.running:
        switch_off(process)


def wait_for(run: Path, step: int, machines: Machines) -> None:
    """Wait for the checkpoint of a step, or a later one."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while not any(int(each.name.partition("-")[2]) >= step for each in run.glob("checkpoints/checkpoint-*")):
        assert time.monotonic() < until, machines.output()
        assert any(process.poll() is None for process in machines.running), machines.output()
        time.sleep(0.05)


def test_two_machines_are_stopped_and_resumed_and_survive_the_loss_of_one(tmp_path, machines, ranks_of: Ranks):
    spec = spec_of(Request(overrides=(*COMMON, "hardware=multi_gpu", f"run.dir={tmp_path / 'whole'}")))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("ftcli.worker", "train", str(tmp_path / "whole"), cwd=tmp_path, number=2)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"hardware.rendezvous=127.0.0.1:{free.getsockname()[1]}"
    run, words = tmp_path / "run", (*COMMON, "hardware=multi_node", "hardware.num_nodes=2", "hardware.num_processes=1")
    second, first = (machines.start(*words, meet, f"hardware.node_rank={rank}", "run.dir=run") for rank in (1, 0))
    wait_for(run, 2, machines)
    os.kill(second.pid, signal.SIGTERM)  # one machine is asked to stop, and both do, at the same step
    codes = [process.wait(TIMEOUT_SECONDS) for process in (first, second)]
    assert codes == [EXIT_INTERRUPTED] * 2, machines.output()
    stopped = max(int(each.name.partition("-")[2]) for each in run.glob("checkpoints/checkpoint-*"))
    assert stopped < 16
    assert "restart 1" not in machines.output()  # what was asked to stop is not started again

    first, second = (
        machines.start("--resume", "run", "--allow-endpoint", f"hardware.node_rank={rank}") for rank in (0, 1)
    )
    wait_for(run, stopped + 2, machines)
    switch_off(second)
    again = machines.start("--resume", "run", "--allow-endpoint", "hardware.node_rank=1")
    assert [process.wait(TIMEOUT_SECONDS) for process in (first, again)] == [EXIT_DONE] * 2, machines.output()
    # torch's launcher may form a group with the machine that is gone before it notices
    assert json.loads((run / rundir.RESULT).read_text())["restarts"] in (1, 2)
    assert "restart 1 of 3: a process was lost, going on from checkpoint-" in machines.output()
    assert (run / "log-1.txt").is_file()
    ours, theirs = (each / rundir.MODEL / "adapter_model.safetensors" for each in (run, tmp_path / "whole"))
    assert ours.read_bytes() == theirs.read_bytes()
