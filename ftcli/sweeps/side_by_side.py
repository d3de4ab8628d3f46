"""Runs the jobs of a sweep, each in a process of its own, so many at once, and passes signals on to them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ftcli.core import hardware
from ftcli.core.exit_codes import EXIT_INTERRUPTED
from ftcli.runs.stop_signals import handled, held_back, name_of, send
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.sweep_folder import SweepJob

_TURN_SECONDS = 0.2
_SET_SIGNAL_OF_PARENTS_DEATH = 1
Slot = Mapping[str, str]
"""The environment by which a job finds its GPU."""


class Queue(Protocol):
    """The jobs of a sweep, in their order."""

    def next(self) -> SweepJob | None:
        """The next job to start, or to resume; None where none is left to be started now."""

    def is_hopeless(self, job: SweepJob) -> bool:
        """Whether a job that is running is to be stopped."""

    def ended(self, job: SweepJob, code: int, *, stopped: bool) -> None:
        """Take note of the end of a job; `stopped`: since it was hopeless."""


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """How the jobs are started."""

    command: Callable[[SweepJob], Sequence[str]]
    """The words after `ftcli` that start or resume a job."""
    slots: Sequence[Slot]
    """One for each job that runs at a time."""
    log: Callable[[SweepJob], Path] | None = None
    """Where a job's output goes; None is the terminal."""
    quiet: bool = False
    """Whether what jobs print on stdout goes to stderr, since the sweep prints there itself."""
    say: Callable[[str], None]


class _Running:
    """The jobs at work, and the signal that came meanwhile."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.processes: dict[subprocess.Popen[bytes], tuple[SweepJob, Slot]] = {}
        self.hopeless: set[str] = set()
        self.signals: list[int] = []

    def arrived(self, number: int, _frame: object) -> None:
        """Pass a signal on; what is at work ends by itself, with a checkpoint."""
        self.signals.append(number)
        for process in list(self.processes):
            send(process.pid, number)

    def start(self, job: SweepJob, slot: Slot) -> None:
        """Start a job; signals wait until it is among those that they are passed on to."""
        command = [sys.executable, "-m", "ftcli", *self.jobs.command(job)]
        parent = os.getpid()
        with held_back(), ExitStack() as stack:
            file = stack.enter_context(open(self.jobs.log(job), "ab")) if self.jobs.log else None
            # In a session of its own, since a second signal would kill it: from the terminal, and from here.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file if file is not None else (sys.stderr.fileno() if self.jobs.quiet else None),
                stderr=subprocess.STDOUT if file is not None else None,
                env={**os.environ, **slot},
                start_new_session=True,
                preexec_fn=lambda: _as_a_job(parent),
            )
            self.processes[process] = (job, slot)

    def stop(self, process: subprocess.Popen[bytes], job: SweepJob) -> None:
        """Stop a hopeless job as a scheduler would."""
        self.hopeless.add(job.name)
        send(process.pid, signal.SIGTERM)

    def over(self) -> Iterator[tuple[SweepJob, Slot, int]]:
        """The jobs that have ended since, with their exit codes."""
        for process in [each for each in self.processes if each.poll() is not None]:
            job, slot = self.processes.pop(process)
            yield job, slot, process.returncode


def _as_a_job(parent: int) -> None:
    """In the process of a job: let signals in, and be stopped when the sweep is killed, which would resume the job."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    ctypes.CDLL(None).prctl(_SET_SIGNAL_OF_PARENTS_DEATH, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def run_all(queue: Queue, jobs: Jobs) -> str | None:
    """Run jobs until none is left; the name of the signal that stopped them, or None.

    A job that fails ends no other. After a signal none is started, and those at work are waited for.
    """
    free, running, started = list(jobs.slots), _Running(jobs), 0
    with handled(running.arrived):
        while True:
            while free and not running.signals and (job := queue.next()) is not None:
                started += 1
                jobs.say(f"job {started}: {job.name}")
                running.start(job, free.pop(0))
            if not running.processes:
                break
            _wait(running, queue)
            for job, slot, code in running.over():
                free.append(slot)
                interrupted = bool(running.signals) and code < 0  # before it could take the signal for a request
                stopped = job.name in running.hopeless
                queue.ended(job, EXIT_INTERRUPTED if interrupted or (stopped and code < 0) else code, stopped=stopped)
    return name_of(running.signals[0]) if running.signals else None


def _wait(running: _Running, queue: Queue) -> None:
    """Wait for the end of a job, for a turn at most, and stop those that are hopeless."""
    until = time.monotonic() + _TURN_SECONDS
    while time.monotonic() < until and all(process.poll() is None for process in running.processes):
        time.sleep(_TURN_SECONDS / 4)
    for process, (job, _) in list(running.processes.items()):
        if job.name not in running.hopeless and process.poll() is None and queue.is_hopeless(job):
            running.stop(process, job)


def slots_for(specs: Sequence[RunSpec], wanted: int | None) -> list[Slot]:
    """A slot for each job at a time: a GPU each where every job takes one, else the machine as it is.

    Args:
        wanted: `sweep.jobs`.
    """
    alone = bool(specs) and all(each.launch.device == "cuda" and each.launch.num_processes == 1 for each in specs)
    cards = hardware.gpus() if alone else ()
    if len(cards) < 2 or wanted == 1:
        return [{}] * (wanted or 1)
    shown = [{hardware.VISIBLE: card.uuid or str(number)} for number, card in enumerate(cards)]
    return [shown[number % len(shown)] for number in range(wanted or len(shown))]
