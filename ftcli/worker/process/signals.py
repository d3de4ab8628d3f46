"""Early ends of a run by signals, and the lock that keeps two processes from sharing a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from ftcli.core.errors import InterruptedRun, Problem
from ftcli.core.text import shell_word
from ftcli.runs import rundir


class StopSignal:
    """Records SIGTERM or SIGINT, so that the current step can finish first. A context manager."""

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._arrived) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        # Ctrl-C may arrive twice, from the terminal and forwarded: the second must not interrupt a save.
        self.name = signal.Signals(number).name

    def check(self, run_dir: Path) -> None:
        """Stops at a point where nothing is half done.

        Raises:
            InterruptedRun: a signal arrived.
        """
        if self.name:
            raise interrupted(self.name, run_dir)


def interrupted(name: str, run_dir: Path) -> InterruptedRun:
    """The error of an interrupted run, with the command that resumes it."""
    return InterruptedRun(Problem(str(run_dir), f"stopped by {name}", go_on(run_dir)))


def go_on(run_dir: Path) -> str:
    """The command that resumes a run, or the pipeline that it is a stage of."""
    return f"resume with: ftcli train --resume {shell_word(rundir.whole(run_dir))}"


class StopCallback(TrainerCallback):
    """Ends training at the end of a step, after a checkpoint, once a signal arrived in any process."""

    def __init__(self, stop: StopSignal, run_dir: Path) -> None:
        self._stop, self._run_dir, self._stopping = stop, run_dir, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Requests a checkpoint if a signal arrived here or in another process."""
        arrived = bool(self._stop.name)
        if args.world_size > 1:
            anywhere = torch.tensor(int(arrived), device=args.device)
            distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
            arrived = bool(anywhere.item())
        if arrived:
            self._stopping = True
            control.should_save = True
            # An evaluation may take longer than the sender of the signal waits.
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves the training loop, in all processes at once."""
        if self._stopping:
            raise interrupted(self._stop.name or "another process", self._run_dir)


@contextmanager
def exclusive(run_dir: Path, rank: int) -> Iterator[None]:
    """Hold the run's lock; only the first process of a run takes it.

    Raises:
        ConfigError: another process holds it.
    """
    if rank:
        yield
        return
    with rundir.at_work(run_dir):
        yield
