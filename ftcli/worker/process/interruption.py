"""How a worker stops when a signal asks it to: at once, wherever it is.

Nothing is half done then: files appear whole or not at all, and a journal keeps what is finished.

Two things are finished first: the step of a training, with its checkpoint, and the saving of a model (`finishing`).
What does not return, as a collective whose other side has left, ends after LEAVES_WITHIN seconds all the same.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcli.core.errors import InterruptedRun, Problem, RankLost
from ftcli.runs.resume_line import resume_with
from ftcli.runs.stop_signals import Stopped, handled, let_in, name_of
from ftcli.worker.process import activity
from ftcli.worker.process.exhausted import as_situation

LEAVES_WITHIN = 10.0
"""Seconds after a signal in which a worker ends that has nothing to finish, whatever it waits for."""
_LOOK_SECONDS = 0.25


class _Stop:
    """The first signal that arrived, and whether something is finished before it is followed."""

    def __init__(self) -> None:
        self.taken = False
        self.forget()

    def forget(self) -> None:
        """As when no signal has arrived."""
        self.name, self.while_doing, self.finishing, self.process = "", "", False, os.getpid()
        self.arrived = threading.Event()


_stop = _Stop()


@contextmanager
def taken(give_up: Callable[[str], None] | None = None) -> Iterator[None]:
    """Take the signals that stop, unless they are taken already.

    Args:
        give_up: ends the process, with that message, when it has not ended by itself in LEAVES_WITHIN seconds.

    Raises:
        Stopped: a signal arrived, and nothing had to be finished.
    """
    if _stop.taken:
        yield
        return
    _stop.forget()
    _stop.taken = True
    over = threading.Event()
    try:
        with handled(_arrived):
            if give_up is not None:
                let_in()
                threading.Thread(target=_attend, args=(give_up, over), daemon=True).start()
            yield
    finally:
        if not _stop.name:  # otherwise the end of the process has its limit too: threads may wait for an answer
            over.set()
        _stop.taken = False


def _arrived(number: int, _frame: Any) -> None:
    if os.getpid() != _stop.process:  # a process for loading rows, forked from this one, which ends it
        return
    first = not _stop.name
    if first:
        # Ctrl-C may arrive twice, from the terminal and forwarded: the second interrupts no clearing up.
        _stop.name, _stop.while_doing = name_of(number), activity.text()
        _stop.arrived.set()
        check()


def name() -> str:
    """The name of the first signal that arrived; "" if none has."""
    return _stop.name


def check() -> None:
    """Stop here, where nothing is half done.

    Raises:
        Stopped: a signal arrived, and nothing has to be finished first.
    """
    if _stop.name and not _stop.finishing:
        raise Stopped(_stop.name, _stop.while_doing)


def reached(done: int, total: int | None, unit: str) -> None:
    """Keep how far the present phase is, and stop here if that was requested; for every loop that may take long.

    Raises:
        Stopped: as `check`.
    """
    activity.note(done, total, unit)
    check()


def finish_first(begun: bool) -> None:
    """Whether something is going on from here on that is finished before a stop."""
    _stop.finishing = begun


@contextmanager
def finishing() -> Iterator[None]:
    """Finish the block before a stop.

    Raises:
        Stopped: after the block, if a signal has arrived by then.
    """
    before, _stop.finishing = _stop.finishing, True
    try:
        yield
    finally:
        _stop.finishing = before
    check()


def is_finishing() -> bool:
    """Whether a stop waits for something."""
    return _stop.finishing


@contextmanager
def leavable(alone: bool) -> Iterator[None]:
    """Leave the block at once for a stop, though it is part of a step: whoever trains saves what was before it.

    Args:
        alone: whether this is the only process. Several cannot leave at once, and finish the step.

    Raises:
        Stopped: a signal arrived, before or in the block.
    """
    if not alone:
        yield
        return
    before, _stop.finishing = _stop.finishing, False
    try:
        check()
        yield
    finally:
        _stop.finishing = before


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Take the signals for the run or stage of a folder.

    Raises:
        InterruptedRun: a signal arrived; names the command that resumes.
    """
    with taken():
        try:
            yield
        except Stopped as stopped:
            raise interrupted(stopped, folder) from None
        except Exception as error:
            # Another process may have followed the signal first, and left this one in a collective.
            if _stop.name and isinstance(as_situation(error), RankLost):
                raise interrupted(Stopped(_stop.name, _stop.while_doing), folder) from None
            raise


def interrupted(stopped: Stopped | str, folder: Path) -> InterruptedRun:
    """The error of a run or stage that was stopped, with the command that resumes it."""
    return InterruptedRun(Problem(str(folder), str(stopped), resume_with(folder)))


def _attend(give_up: Callable[[str], None], over: threading.Event) -> None:
    """Write the line of progress; after a signal, end what does not end by itself."""
    line = activity.Line()
    wait = activity.DRAW_SECONDS if line.redraws or line.records else activity.DRAW_SECONDS * 2
    while not _stop.arrived.wait(wait):
        if over.is_set():
            return
        line.write()
    idle = 0.0
    while idle < LEAVES_WITHIN:
        before = time.monotonic()
        if over.wait(_LOOK_SECONDS):
            return
        idle = 0.0 if _stop.finishing else idle + time.monotonic() - before
    give_up(str(Stopped(_stop.name, _stop.while_doing)))
