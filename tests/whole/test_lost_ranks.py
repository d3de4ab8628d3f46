"""A process that dies, hangs or raises ends its run with its name, step and cause, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.launch import local
from ftcli.launch.rank_watch import DEATH_SECONDS, HANG_SECONDS
from ftcli.runs import run_end, rundir
from tests.ranks import TIMEOUT_SECONDS, environment
from tests.whole.conftest import Start, Train
from tests.whole.faulty_worker import STEP

PROOF = bool(os.environ.get("FTCLI_PROOF"))
QUICK = (
    "train.logging_steps=1", "train.save_strategy=no", "train.eval_strategy=no", "data.max_rows=32", "run.score_rows=0",
    "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip


def working_in(run: Path) -> list[psutil.Process]:
    """The processes that have a run's directory on their command line."""
    found = []
    for each in psutil.process_iter(["cmdline", "status"]):
        if str(run) in " ".join(each.info["cmdline"] or ()) and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(each)
    return found


def wait_for(event, what: str) -> None:
    """Wait until something has happened."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while not event():
        assert time.monotonic() < until, what
        time.sleep(0.02)


_HANGS = "rank 1 has made no progress for 10 seconds in step 3,"
TWO = (
    # fault, step_timeout_seconds, exit code, what end.json says
    ("stopped", 10, 8, f"{_HANGS} and does not answer; rank 0 waited for it"),
    ("bug", None, 1, "LookupError: the planted bug"),
    ("killed", None, 8, "rank 1 was killed by SIGKILL in step 3"),
    ("hangs", 10, 8, f"{_HANGS} at {{here}} in hangs; rank 0 waited for it"),
    ("aborted", None, 4, "rank 1 was killed by SIGABRT in step 3: std::bad_alloc"),
    ("memory", None, 4, "ran out of memory"),
    ("disk", None, 6, "cannot be written"),
    ("folder", None, 6, "is gone"),
)
_SAMPLE = ("stopped", "killed")


@pytest.mark.parametrize(("fault", "step_timeout", "code", "words"), TWO, ids=[each[0] for each in TWO])
def test_one_of_two_processes_ends_the_run_by_its_name(
    fault: str, step_timeout: int | None, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if fault not in _SAMPLE and not PROOF:
        pytest.skip("make proof runs all of them")
    run = tmp_path / "run"
    two = ("train.max_steps=5", "train.save_strategy=steps", "train.save_steps=4", "hardware.num_processes=2")
    spec = spec_of(Request(overrides=(*QUICK, *two, f"run.dir={run}")))
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    run_end.write(run, run_end.RunEnd(code=2, message="of the command before"))
    command = local.worker_command

    def faulty(plan, arguments: Sequence[str], *more) -> list[str]:
        words = command(plan, arguments, *more)
        place = words.index("ftcli.worker")
        return [*words[:place], "tests.whole.faulty_worker", fault, "1", *words[place + 1 :]]

    monkeypatch.setattr(local, "worker_command", faulty)
    said: list[str] = []
    assert local.run_worker(run, spec.launch, None, said.append, step_timeout=step_timeout) == code, said
    assert not working_in(run)
    if fault == "folder":
        assert not (run / rundir.SPEC).exists()
        return
    end = run_end.read(run)
    assert end is not None
    if fault != "disk":  # which both processes meet
        assert (end.rank, end.step, end.phase) == (1, STEP, "training")
    place = rf"{Path(__file__).with_name('faulty_worker.py')}:"
    before, _, after = words.partition("{here}")
    assert (before, end.code) == (end.message[: len(before)] if after else before, code)
    assert (place in end.message and end.message.endswith(after)) if after else words in end.message
    assert code == 1 or any("--resume" in line for line in said)


def test_the_times_are_promised():
    assert (DEATH_SECONDS, HANG_SECONDS) == (15, 20)


def first_steps(run: Path) -> bool:
    """Whether a run has trained."""
    metrics = run / rundir.METRICS
    return metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) >= 2


@pytest.mark.parametrize(
    ("number", "step_timeout", "code", "words"),
    [
        (signal.SIGKILL, 1800, 8, "the worker was killed by SIGKILL in step"),
        (signal.SIGSTOP, 3, 8, "the worker has made no progress for 3 seconds in step"),
        (signal.SIGTERM, 1800, 75, "stopped by SIGTERM"),
    ],
)
def test_a_process_that_is_alone_ends_the_run_alike(
    number, step_timeout, code, words, tmp_path: Path, ftcli_start: Start, ftcli_run: Train
):
    run = tmp_path / "run"
    own = ("train.max_steps=5000", f"hardware.step_timeout_seconds={step_timeout}", f"run.dir={run}")
    with ftcli_start("train", *QUICK, *own, cwd=tmp_path) as command:
        wait_for(lambda: first_steps(run) or command.poll() is not None, "no step was trained")
        [worker] = psutil.Process(command.pid).children()
        worker.send_signal(number)
        assert command.wait(TIMEOUT_SECONDS) == code
    end = run_end.read(run)
    assert end is not None
    assert end.code == code
    assert words in end.message
    told = ftcli_run("report", str(run), cwd=tmp_path).stdout
    assert f"exit code {code}" in told
    assert words in told
    assert not psutil.pid_exists(worker.pid) or worker.status() == psutil.STATUS_ZOMBIE


def test_what_takes_longer_than_a_step_may_is_no_hang_while_it_works(tmp_path: Path, ftcli_run: Train):
    # To import the libraries takes longer than that; a step does not.
    own = ("train.max_steps=2", "hardware.step_timeout_seconds=5", "run.dir=run", "peft=lora", "data.eval_share=0.5")
    words = [word for word in QUICK if not word.startswith("run.score_rows")]
    ftcli_run("train", *words, *own, "run.score_rows=16", cwd=tmp_path, real=True)
    end = run_end.read(tmp_path / "run")
    assert end is not None
    assert end.code == 0


@pytest.mark.skipif(not PROOF, reason="it starts real processes for what test_worker_end.py holds: make proof runs it")
def test_two_processes_that_are_asked_to_stop_while_they_load_are_interrupted(tmp_path: Path):
    run = tmp_path / "run"
    words = ("train", *QUICK, "train.max_steps=5000", "hardware.num_processes=2", f"run.dir={run}")
    with subprocess.Popen([sys.executable, "-m", "ftcli", *words], cwd=tmp_path, env=environment()) as command:
        ranks = lambda: [each for each in working_in(run) if each.environ().get("RANK")]  # noqa: E731
        wait_for(lambda: len(ranks()) == 2, "no process was started")
        command.send_signal(signal.SIGTERM)
        assert command.wait(TIMEOUT_SECONDS) == 75
    end = run_end.read(run)
    assert end is not None
    assert end.code == 75
    assert not working_in(run)
