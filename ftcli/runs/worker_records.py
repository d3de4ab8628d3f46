"""The lines of a worker's output that it wrote itself, and records of its progress, for a terminal that draws them.

A record is a line of JSON behind MARK, a line for the user stands behind OWN: characters that no text of the worker's
can hold, as its output is cleaned. A record is checked all the same, since a library may write past Python.

phases.json tells the same of the phases to whoever looks at the folder of a run: what its last worker has done, how
long that took, and what it does now.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

TERMINAL = "FTCLI_TERMINAL"
"""Environment variable that tells a worker how it may write of its progress: one of these."""
LINES, REDRAWS, RECORDS = "0", "1", "records"
OUTPUT, MARKED = "FTCLI_OUTPUT", "marked"
"""Environment variable that makes a worker mark what it says itself, by OWN before each line."""
WAITS = "--waits"
"""The argument of a worker that waits for its work, before the number of the file that it reads that from."""
OWN = "\x1e"
MARK = "\x1f"
MEASURES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "reward",
    "tokens_per_second": "tokens/s",
    "peak_resident_gib": "GiB",
    "peak_reserved_gib": "GiB of GPU",
}
"""What a record holds of a line of metrics, and how a person reads it."""
_STEP = re.compile(r"(?: (?:at|for) step |-)\d+$")
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record: what of it is not empty is news."""

    begins: str = ""
    """A phase that begins, within those that have not ended."""
    ends: str = ""
    """A phase that ends."""
    seconds: float = 0.0
    """How long it took."""
    failed: bool = False
    """Whether it ended with an error, or was stopped."""
    done: int | None = None
    """How far the present phase is."""
    total: int | None = None
    unit: str = ""
    seconds_left: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """The last value of some of MEASURES."""
    line: str = ""
    """For the log, which keeps what a plain terminal would show."""

    def text(self) -> str:
        """The record as a line."""
        told = {
            key: value
            for key, value in asdict(self).items()
            if value not in ("", None, False, {}) or (key == "done" and value == 0)
        }
        return f"{MARK}{json.dumps(told)}\n"


def read(text: str) -> Record | None:
    """The record of what stands behind MARK; None for what is none."""
    try:
        told = json.loads(text)
        record = Record(**told)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (record.begins, record.ends, record.unit, record.line)
    counts = (record.done, record.total)
    right = (
        all(isinstance(each, str) for each in texts)
        and all(each is None or (type(each) is int and each >= 0) for each in counts)
        and (record.seconds_left is None or _is_number(record.seconds_left))
        and _is_number(record.seconds)
        and isinstance(record.measures, dict)
        and all(key in MEASURES and _is_number(value) for key, value in record.measures.items())
        and all(len(each) <= _LONGEST_NAME for each in texts[:3])
    )
    return record if right else None


def measures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """What a record holds of a line of metrics."""
    return {key: line[key] for key in MEASURES if _is_number(line.get(key))}


def kind(phase: str) -> str:
    """What a phase does, without the step that it does it at."""
    return _STEP.sub("", phase)


@dataclass(frozen=True, kw_only=True)
class PhaseTime:
    """How long phases of a kind have taken."""

    name: str
    within: bool = False
    """Whether they were part of another phase, as an evaluation is of training."""
    times: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The content of phases.json."""

    over: tuple[PhaseTime, ...] = ()
    """By kind, in the order in which they first began."""
    now: str = ""
    """The phase at work; "" between two, and after the last."""
    since: float = 0.0
    """When it began, in seconds since 1970."""
    done: int | None = None
    total: int | None = None
    unit: str = ""


class PhaseFile:
    """Keeps phases.json of a run's folder."""

    _SECONDS = 2.0
    """Between two writes, unless a phase begins that is the first of its kind, or the last one ends."""

    def __init__(self, folder: Path) -> None:
        self._file, self._phases, self._written = folder / rundir.PHASES, Phases(), 0.0
        self._outer: list[tuple[str, float]] = []
        self._lock = threading.Lock()  # the thread that writes lines of progress counts

    def begins(self, name: str) -> None:
        """Take note that a phase begins, within those that have not ended."""
        with self._lock:
            self._begins(name)

    def _begins(self, name: str) -> None:
        known = {each.name for each in self._phases.over}
        new = PhaseTime(name=kind(name), within=bool(self._outer))
        self._outer.append((name, time.time()))
        over = self._phases.over if new.name in known else (*self._phases.over, new)
        self._phases = Phases(over=over, now=name, since=self._outer[-1][1])
        self._write(at_once=new.name not in known)

    def ends(self, name: str, seconds: float) -> None:
        """Take note that a phase ends."""
        with self._lock:
            if self._outer and self._outer[-1][0] == name:  # a stop may come before its beginning was noted
                self._ends(name, seconds)

    def _ends(self, name: str, seconds: float) -> None:
        self._outer.pop()
        over = tuple(
            replace(each, times=each.times + 1, seconds=round(each.seconds + seconds, 3))
            if each.name == kind(name) else each
            for each in self._phases.over
        )  # fmt: skip
        now, since = self._outer[-1] if self._outer else ("", 0.0)
        self._phases = Phases(over=over, now=now, since=since)
        self._write(at_once=not self._outer)

    def counts(self, done: int, total: int | None, unit: str) -> None:
        """Take note of how far the phase is."""
        with self._lock:
            self._phases = replace(self._phases, done=done, total=total, unit=unit)
            self._write()

    def _write(self, *, at_once: bool = False) -> None:
        """Replace the file, if it is time; a folder that takes none is told of by what has to be written there."""
        if at_once or time.monotonic() - self._written >= self._SECONDS:
            self._written = time.monotonic()
            staging = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            with suppress(OSError):
                staging.write_text(json.dumps({"schema": 1, **asdict(self._phases)}) + "\n", encoding="utf-8")
                os.replace(staging, self._file)


def read_phases(run: Path) -> Phases | None:
    """What a run's last worker has done, and does; None where it keeps no such file, or not as ftcli writes it."""
    try:
        told = foreign_files.read_json(run / rundir.PHASES)
        told.pop("schema")
        over = tuple(PhaseTime(**each) for each in told.pop("over"))
        found = Phases(**told, over=over)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    texts = all(isinstance(text, str) for text in (found.now, found.unit, *(each.name for each in over)))
    numbers = (found.since, *(each.seconds for each in over), *(each.times for each in over))
    counts = (found.done, found.total)
    right = texts and all(map(_is_number, numbers)) and all(each is None or type(each) is int for each in counts)
    return found if right else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
