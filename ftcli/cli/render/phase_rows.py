"""The phases of a worker as rows with a bar: those at work, and each as it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ftcli.core.untrusted.printable import one_line
from ftcli.runs.worker_records import MEASURES, Record, kind

WIDEST = 100
"""Columns of a row, however wide the terminal is."""
_NAME = 26
_REST = 35
"""Columns of a row beside the name, where there are enough for both."""
_SEEN_SECONDS = 0.05
"""Of a phase that had something to do; others leave no row."""
_PULSE_SECONDS = 3.0
"""In which the bar of a phase without an end is crossed once."""


@dataclass
class _Phase:
    """One phase at work."""

    name: str
    since: float
    done: int | None = None
    total: int | None = None
    unit: str = ""
    seconds_left: float | None = None
    told_at: float = 0.0
    """When that time was told."""
    within: dict[str, list[float]] = field(default_factory=dict)
    """How long each phase within it took, each time, by kind."""

    def left(self, now: float) -> float | None:
        """Seconds until it is done; None where nothing tells that."""
        if self.seconds_left is not None:
            return max(0.0, self.seconds_left - (now - self.told_at))
        if not self.done or not self.total or self.unit == "steps":
            return None
        return (now - self.since) / self.done * (self.total - self.done)

    def row(self, now: float, width: int, *, over: bool = False) -> Table:
        """Its name, its bar, how far it is, and how long it takes."""
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(width=max(width // 3, min(_NAME, width - _REST)), no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1)
        for _ in range(2):
            grid.add_column(justify="right", no_wrap=True, overflow="ellipsis")
        bar: RenderableType = _Pulse(now - self.since)
        if over or self.total is not None:
            total = max(self.total or 1, 1)
            bar = ProgressBar(total=total, completed=total if over else self.done or 0)
        left = None if over else self.left(now)
        time = _clock(now - self.since) if left is None else f"{_clock(left)} left"
        grid.add_row(Text(one_line(self.name)), bar, Text(self._count(over=over)), Text(time, style="dim"))
        return grid

    def _count(self, *, over: bool) -> str:
        """How far it is; of one that is over only what was counted to its end, as counts come now and then."""
        if not self.unit or self.done is None or (over and self.done != self.total):
            return ""
        of = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{of} {one_line(self.unit)}"

    def inner(self) -> list[str]:
        """What was done within it, and how long that took."""
        often = {name: f" {len(times)} times," if len(times) > 1 else "" for name, times in self.within.items()}
        return [f"{one_line(name)}{often[name]} {_clock(sum(times))}" for name, times in self.within.items()]


class _Pulse:
    """The bar of a phase of which nobody knows how far it is: a part of it moves.

    rich's own colours each of its characters by itself, which is much to send to a terminal four times a second.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, line = options.max_width, "-" if options.ascii_only else "━"
        part = max(1, width // 5)
        before = int(self._seconds * width / _PULSE_SECONDS) % width
        back = " " if console.no_color or options.ascii_only else line
        rest = width - before
        yield Text.assemble(
            (back * before, "bar.back"),
            (line * min(part, rest), "bar.pulse"),
            (back * max(0, rest - part), "bar.back"),
            end="",
        )

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(4, options.max_width)


class PhaseRows:
    """What is known of the phases, from one record to the next."""

    def __init__(self) -> None:
        self._at_work: list[_Phase] = []
        self._measures: dict[str, float] = {}

    def take(self, record: Record, now: float, width: int) -> RenderableType | None:
        """Take note of a record; what remains on the screen of a phase that it ends, or None."""
        if record.begins:
            self._at_work.append(_Phase(record.begins, now))
        if record.measures:
            self._measures.update(record.measures)
        phase = self._at_work[-1] if self._at_work else None
        if phase is None:
            return None
        if record.done is not None:
            phase.done, phase.total, phase.unit = record.done, record.total, record.unit
        if record.measures:  # each line of metrics tells the time anew, the last one that none is left
            phase.seconds_left, phase.told_at = record.seconds_left, now
        return self._ended(record, now, width) if record.ends and record.ends == phase.name else None

    def _ended(self, record: Record, now: float, width: int) -> RenderableType | None:
        phase = self._at_work.pop()
        if self._at_work:
            self._at_work[-1].within.setdefault(kind(phase.name), []).append(record.seconds)
            return None
        if record.failed or record.seconds < _SEEN_SECONDS:  # what comes then is its error
            return None
        phase.since = now - record.seconds
        details = [*_details(self._measured(), width), *_details(phase.inner(), width)]
        return Group(phase.row(now, width, over=True), *(details if phase.unit == "steps" else ()))

    def rows(self, now: float, width: int) -> RenderableType | None:
        """What is drawn while they are at work; None for nothing."""
        if not self._at_work:
            return None
        measured = self._measured() if any(each.unit == "steps" for each in self._at_work) else []
        return Group(*(each.row(now, width) for each in self._at_work), *_details(measured, width))

    def _measured(self) -> list[str]:
        return [_measure(key, self._measures[key]) for key in MEASURES if key in self._measures]


def _clock(seconds: float) -> str:
    """A duration in few columns: 4.2s, 1:02, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _measure(key: str, value: float) -> str:
    """A measure by its name, in the form that a person reads it in."""
    name = MEASURES[key]
    if key == "tokens_per_second":
        return f"{value:,.0f} {name}"
    return f"{value:.1f} {name}" if key.endswith("_gib") else f"{name} {value:.4f}"


def _details(parts: Sequence[str], width: int) -> list[Text]:
    """Parts one after the other, on as many lines as they need."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}  {part}"
        if lines[-1] and cell_len(longer) > width:
            lines.append(f"  {part}")
        else:
            lines[-1] = longer
    return [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines if line]
