"""What a worker is doing and how far it is, apart from the steps of training: for a line of progress, and for a stop.

On a terminal one line is redrawn; elsewhere a plain line appears every LINE_SECONDS, and whoever draws more than a line
is sent records. Only the first process of a run writes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from ftcli.runs.worker_records import LINES, REDRAWS, TERMINAL, PhaseFile, Record
from ftcli.worker.process import heartbeat, own_lines

LINE_SECONDS = 10.0
"""Seconds between two plain lines of progress; a phase that takes less writes none."""
SAME_SECONDS = 60.0
"""Seconds after which a line is repeated that says nothing new."""
DRAW_SECONDS = 0.5
"""Seconds between two drawings of the line on a terminal."""
EVENT = "ftcli.phase"
"""The event of Python's audit hooks that tells of each phase as it begins, with its name."""
_ERASE = f"\r{' ' * 79}\r"
"""Clears the progress line; log.txt keeps what follows a carriage return."""


@dataclass
class _Activity:
    """The phase, and how far it is."""

    phase: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    since: float = 0.0
    shown: bool = True
    """Whether it has no lines of its own kind, as the steps of a training have."""

    def __str__(self) -> str:
        if not self.unit:
            return self.phase
        of = f" of {self.total:,}" if self.total is not None else ""
        return f"{self.phase}: {self.done:,}{of} {self.unit}"

    def counted(self) -> dict[str, Any]:
        """How far it is, as a record has it."""
        return {"done": self.done, "total": self.total, "unit": self.unit} if self.unit else {}


class Listener(Protocol):
    """Who is told of the phases."""

    def begins(self, name: str) -> None:
        """A phase that begins, within those that have not ended."""

    def ends(self, name: str, seconds: float) -> None:
        """A phase that ends, and how long it took."""


_now = _Activity()
_drawn = False
_file: PhaseFile | None = None
_listeners: list[Listener] = []


@contextmanager
def phase(name: str, *, shown: bool = True) -> Iterator[None]:
    """Name what is done in the block. Within another phase that is shown it keeps that one's name, which says more."""
    global _now
    before, failed = _now, True
    is_own = not (before.phase and before.shown)
    _now = _Activity(name, since=time.monotonic(), shown=shown) if is_own else before
    try:
        if is_own:
            own_lines.send(Record(begins=name))
            for each in _told():
                each.begins(name)
        sys.audit(EVENT, name)
        heartbeat.phase(_now.phase)
        yield
        heartbeat.phase(before.phase)  # and not after an error, whose place this is
        failed = False
    finally:
        if is_own:
            seconds = round(time.monotonic() - _now.since, 3)
            for each in _told():
                each.ends(name, seconds)
            own_lines.send(Record(ends=name, seconds=seconds, failed=failed, **_now.counted()))
        _now = before
        erase()


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep the phases that begin in the block in the folder of a run, for who looks at it; the first process does."""
    global _file
    before, _file = _file, PhaseFile(folder) if os.environ.get("RANK", "0") == "0" else None
    try:
        yield
    finally:
        _file = before


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Tell a listener of the phases that begin and end in the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _told() -> list[Listener]:
    return [*([_file] if _file is not None else []), *_listeners]


def note(done: int, total: int | None, unit: str) -> None:
    """Keep how far the phase is. Cheap: nothing is written here.

    What is counted first is counted to its end: the answers that make an item are no progress of their own.
    """
    heartbeat.passes()
    if unit == _now.unit or _now.done >= (_now.total or 0):
        _now.done, _now.total, _now.unit = done, total, unit


def text() -> str:
    """What is done now and how far it is; "" for nothing that has a name."""
    return str(_now)


class Line:
    """Writes the activity, as often as it is worth reading."""

    def __init__(self) -> None:
        self.redraws = updates(sys.stderr)
        self.records = own_lines.takes_records()
        self._first = os.environ.get("RANK", "0") == "0"
        self._last, self._said = time.monotonic(), ""

    def write(self) -> None:
        """Write the line, if it is time."""
        global _drawn
        now, found = time.monotonic(), _now
        if self.records and found.unit:
            own_lines.send(Record(**found.counted()))
        if _file is not None and found.unit:
            _file.counts(found.done, found.total, found.unit)
        wait = DRAW_SECONDS if self.redraws else LINE_SECONDS
        if not self._first or not found.phase or not found.shown or now - max(found.since, self._last) < wait:
            return
        if str(found) == self._said and not self.redraws and now - self._last < SAME_SECONDS:
            return
        self._last, self._said = now, str(found)
        seconds = "" if found.unit else f" ({now - found.since:.0f} s)"
        if self.redraws:
            own_lines.redraw(f"\r{found}{seconds}".ljust(79))
            _drawn = True
        elif self.records:
            own_lines.send(Record(line=f"{found}{seconds}"))
        else:
            own_lines.say(f"{found}{seconds}")


def erase() -> None:
    """Clear the line, where one was drawn."""
    global _drawn
    if _drawn:
        _drawn = False
        own_lines.redraw(_ERASE)


def say_above(line: str) -> None:
    """Write lines to stderr, above the progress line if there is one."""
    erase()
    own_lines.say(line)


def updates(out: TextIO) -> bool:
    """Whether a line can be redrawn there."""
    # The front half may forward our output, and knows what it goes to.
    told = os.environ.get(TERMINAL)
    return told == REDRAWS if told in (LINES, REDRAWS) else out.isatty()
