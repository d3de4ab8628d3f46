"""A worker that is started before its run is known is the one that would be started then, or is ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from ftcli.core import hardware
from ftcli.core.hardware import Gpu
from ftcli.launch import early_worker
from ftcli.runs.worker_records import TERMINAL, WAITS
from ftcli.settings.run_spec import LaunchPlan
from tests.ranks import environment

AMPERE = Gpu("A100", 80, (8, 0), 80)
ECHO = "import sys; print(sys.argv[1:], open(int(sys.argv[2])).read())"


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, and tells what it is given."""

    def start(words: list[str], file: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", ECHO, *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(file,)))
        return started[0]

    started: list[subprocess.Popen[bytes]] = []
    early_worker.begin(start, {"OMP_NUM_THREADS": "2", TERMINAL: "0"})
    yield started[0]
    early_worker.end()
    started[0].kill()
    started[0].wait()


def test_it_is_given_its_work_and_what_is_known_late_of_its_environment(waiting) -> None:
    taken = early_worker.take(["train", "RUN"], {"OMP_NUM_THREADS": "2", TERMINAL: "records"})
    assert taken is waiting
    told = waiting.communicate(timeout=120)[0].decode()
    given, _, work = told.partition("] ")
    assert WAITS in given
    assert json.loads(work) == {"environment": {TERMINAL: "records"}, "arguments": ["train", "RUN"]}
    assert early_worker.take([], {}) is None, "it is given work once"


@pytest.mark.parametrize("other", [{"OMP_NUM_THREADS": "1"}, {}, {"OMP_NUM_THREADS": "2", "HF_HOME": "/x"}])
def test_it_is_ended_where_another_environment_is_wanted(waiting, other) -> None:
    assert early_worker.take(["train", "RUN"], other) is None
    assert waiting.returncode is not None


def test_one_that_has_died_is_not_taken(waiting) -> None:
    waiting.kill()
    waiting.wait()
    assert early_worker.take(["train", "RUN"], {"OMP_NUM_THREADS": "2"}) is None


@pytest.mark.parametrize(
    ("words", "gpus", "plan"),
    [
        ((), (), LaunchPlan(device="cpu", num_threads=4)),
        (("method=dpo", "hardware.num_threads=3"), (), LaunchPlan(device="cpu", num_threads=3)),
        ((), (AMPERE,), LaunchPlan(device="cuda", num_threads=None)),
        (("hardware=cpu",), (AMPERE,), LaunchPlan(device="cpu", num_threads=4)),
        (("--resume", "RUN"), (), LaunchPlan(device="cpu", num_threads=4)),
        *(((word,), (), None) for word in ("--dry-run", "-m", "--help", "--cfg", "--plugins", "hardware=slurm")),
        (("hardware.num_processes=2",), (), None),
    ],
)
def test_what_a_command_line_likely_means(words, gpus, plan, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: gpus)
    monkeypatch.setattr(hardware, "num_cores", lambda: 4)
    assert early_worker.likely(words) == plan


def test_on_one_core_it_would_only_take_time_from_the_front_half(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "num_cores", lambda: 1)
    assert early_worker.likely(()) is None


WATCHED = """
import sys
from ftcli.launch import early_worker, local
taken, start = early_worker.take, local._started

def take(arguments, environment):
    found = taken(arguments, environment)
    print("TAKEN" if found else "NOT TAKEN", found and found.args[-2:])
    return found

def started(command, *others):
    process = start(command, *others)
    print("STARTED", process.pid)
    return process

early_worker.take, local._started = take, started
import ftcli.cli
sys.argv[0] = "ftcli"
sys.exit(ftcli.cli.main())
"""


def told(words: tuple[str, ...], folder, *cores: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    command = [sys.executable, "-c", WATCHED, "train", "run.dir=run", "hardware.num_threads=1", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    pids = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("STARTED")]
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)
    return done, [line for line in done.stdout.splitlines() if line.startswith(("TAKEN", "NOT TAKEN", "STARTED"))]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: no worker is started early")
def test_a_run_is_trained_by_the_worker_that_waited(tmp_path) -> None:
    done, lines = told(("hardware=cpu", "train.max_steps=1", "data.max_rows=8"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in lines] == ["STARTED", "TAKEN"]
    assert WAITS in lines[1]
    assert (tmp_path / "run/result.json").is_file()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: no worker is started early")
def test_a_refused_command_leaves_no_worker(tmp_path) -> None:
    done, lines = told(("method=dpoo",), tmp_path)
    assert done.returncode == 2
    assert [line.split()[0] for line in lines] == ["STARTED"]
