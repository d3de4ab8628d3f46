"""Which process hangs, and which only wait for it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli.launch.main_threads import Standing, alive, standings, work_done
from ftcli.launch.rank_watch import RankWatch, culprits
from ftcli.runs.beats import CHANNEL, Beat, read_all
from ftcli.settings.run_spec import LaunchPlan
from tests.conftest import REPOSITORY

STOPPED = Standing(answers=False)
WAITS = Standing(answers=True, frames=[("/x/site-packages/torch/distributed/distributed_c10d.py", 3, "barrier")])
BACKWARD = Standing(answers=True, frames=[("/x/site-packages/torch/autograd/graph.py", 8, "_engine_run_backward")])
WORKS = Standing(answers=True, frames=[("/x/lib/python3.11/socket.py", 7, "recv"), ("/data/worth.py", 5, "worth")])


def at(step: int, mark: int = 0, phase: str = "training") -> Beat:
    """A process that is there."""
    return Beat(pid=1, phase=phase, step=step, mark=mark)


@pytest.mark.parametrize(
    ("late", "stand", "all_wait", "hanging"),
    [
        ({0: at(3), 1: at(3)}, {0: BACKWARD, 1: STOPPED}, True, [1]),
        ({0: at(3), 1: at(3)}, {0: WAITS, 1: WORKS}, True, [1]),
        ({0: at(3, 1), 1: at(3)}, {0: WORKS, 1: WORKS}, True, [1]),  # on a GPU a process waits anywhere
        ({0: at(3), 1: at(2, 4)}, {0: WORKS, 1: WORKS}, True, [1]),
        ({0: at(3, 1), 1: at(3)}, {0: BACKWARD, 1: BACKWARD}, True, [1]),
        ({0: at(3), 1: at(3)}, {0: WAITS, 1: WAITS}, True, [0, 1]),
        ({1: at(3)}, {1: WAITS}, False, []),  # the other works
        ({1: at(3, phase="saving a checkpoint")}, {1: WAITS}, False, []),
        ({0: at(3, phase="saving a checkpoint"), 1: at(3)}, {0: STOPPED, 1: WAITS}, True, [0]),
    ],
)
def test_who_waits_in_a_collective_hangs_for_nobody(late, stand, all_wait, hanging):
    assert culprits(late, stand, all_wait=all_wait) == hanging


def test_the_place_is_the_user_s_own_line():
    assert WORKS.place == "/data/worth.py:5 in worth"
    assert WAITS.place == "/x/site-packages/torch/distributed/distributed_c10d.py:3 in barrier"
    assert STOPPED.place == ""


WORKER = """
import sys, time
from ftcli.worker.process import heartbeat

def sleeps():
    print("here", flush=True)
    time.sleep(600)

def works():
    print("here", flush=True)
    while True:
        sum(range(1000))

heartbeat.begin()
heartbeat.phase(sys.argv[2])
if sys.argv[2] == "training":
    heartbeat.step_begins(5)
globals()[sys.argv[1]]()
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are killed at the end."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def started(folder: Path, running: list[subprocess.Popen[str]], *words: str) -> subprocess.Popen[str]:
    """A process that beats into the folder, once it is where it stays."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, CHANNEL: str(folder), "PYTHONPATH": str(REPOSITORY)}
    running.append(
        subprocess.Popen([sys.executable, "-c", WORKER, *words], env=environment, stdout=subprocess.PIPE, text=True)
    )
    assert running[-1].stdout is not None
    assert running[-1].stdout.readline() == "here\n"
    return running[-1]


@pytest.mark.parametrize(
    ("does", "phase", "ends"),
    [("sleeps", "training", True), ("works", "training", True), ("sleeps", "saving", True), ("works", "saving", False)],
)
def test_a_step_must_end_and_all_else_must_work(does: str, phase: str, ends: bool, tmp_path: Path, running):
    process = started(tmp_path / "beats", running, does, phase)
    ended: list[int] = []
    said: list[str] = []
    watch = RankWatch(tmp_path / "beats", LaunchPlan(), 4.0, lambda: ended.append(1), said.append)
    watch.look(0.0)
    before = work_done(process.pid)
    while does == "works" and work_done(process.pid) == before:  # its time is counted in hundredths of a second
        pass
    watch.look(3.9)
    assert not ended
    while does == "works" and work_done(process.pid) == before:
        pass
    watch.look(4.1)
    assert bool(ended) is ends
    if ends:
        assert watch.hung is not None
        where = "in step 5" if phase == "training" else "while saving"
        assert said == [watch.hung.message]
        assert f"the worker has made no progress for 4 seconds {where}, at " in said[0]
        assert said[0].endswith(f"in {does}")


def test_a_stopped_process_does_not_answer_and_a_dead_one_is_seen(tmp_path: Path, running):
    process = started(tmp_path / "beats", running, "sleeps", "training")
    beats = read_all(tmp_path / "beats", {})
    assert standings(tmp_path / "beats", beats)[0].place.endswith("in sleeps")
    process.send_signal(signal.SIGSTOP)
    assert not standings(tmp_path / "beats", beats)[0].answers
    assert alive(beats[0])
    process.kill()
    process.wait()
    assert not alive(beats[0])


def test_what_was_stopped_together_with_its_watch_has_not_hung(tmp_path: Path, running):
    started(tmp_path / "beats", running, "sleeps", "training")
    ended: list[int] = []
    watch = RankWatch(tmp_path / "beats", LaunchPlan(), 4.0, lambda: ended.append(1), lambda _: None)
    for now in (0.0, 600.0, 603.0):  # ten minutes in which nobody looked
        watch.look(now)
    assert not ended
    watch.look(605.0)
    assert ended


def test_only_who_can_be_started_again_is_killed_alone(tmp_path: Path, running):
    process = started(tmp_path / "beats", running, "sleeps", "training")
    ended: list[int] = []
    plan = LaunchPlan(num_processes=2, max_restarts=1)
    watch = RankWatch(tmp_path / "beats", plan, 4.0, lambda: ended.append(1), lambda _: None)
    watch.look(0.0)
    watch.look(4.5)
    assert process.wait() == -signal.SIGKILL
    assert not ended
    assert watch.hung is not None
    started(tmp_path / "beats", running, "sleeps", "training")  # as the launcher does
    watch.look(5.0)
    assert watch.hung is None


def test_machines_wait_for_the_one_whose_process_hangs():
    plan = LaunchPlan(num_processes=4, num_nodes=2)
    watch = RankWatch(Path(), plan, 4.0, lambda: None, lambda _: None)
    assert watch.patience({0: at(3), 1: at(3)}) == 10
    assert watch.patience({0: at(3), 1: at(3, phase="saving a checkpoint")}) == math.inf
    alone = RankWatch(Path(), LaunchPlan(num_processes=2), 4.0, lambda: None, lambda _: None)
    assert alone.patience({0: at(3, phase="saving a checkpoint")}) == 0
