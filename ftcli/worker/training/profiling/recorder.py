"""The clock of a profiled run: every moment belongs to the innermost part at work, so that the parts sum to the whole.

On a GPU the clock waits at both ends of a part until the card has done what was asked of it: else the time of a pass
would be counted where its result is first read.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ftcli.runs.profiles.profile_file import PartTime
from ftcli.runs.profiles.time_parts import IMPORT, OTHER, PARTS, WHOLE

MOST_SPANS = 200_000
"""Spans that are kept for the trace; some ten belong to a step."""


@dataclass(frozen=True)
class Span:
    """A part at work, in seconds of the run."""

    part: str
    start: float
    end: float
    step: int


class Recorder:
    """Divides the time of the thread that makes it."""

    def __init__(
        self,
        imported: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            imported: seconds that the import of the libraries took, before.
            settle: waits until a device has done what it was given.
        """
        self.spans: list[Span] = []
        self.left_out = 0
        """Spans that came after MOST_SPANS."""
        self.step = 0
        self.label: Callable[[str], Any] | None = None
        """Makes a context around each part, for a trace of operations."""
        self._clock, self._settle = clock, settle
        self._seconds, self._times = {IMPORT: imported}, {IMPORT: 1}
        self._origin = self._last = clock()
        self._origin -= imported
        self._thread = threading.get_ident()
        self._at_work: list[tuple[str, float]] = [(OTHER, self._last)]
        self._keep(IMPORT, self._origin)

    @property
    def now(self) -> str:
        """The part at work."""
        return self._at_work[-1][0]

    @property
    def depth(self) -> int:
        """How many parts are at work within each other."""
        return len(self._at_work)

    def begin(self, part: str) -> None:
        """Let a part begin, within those that have not ended."""
        self._charge()
        if self.now in WHOLE:
            part = self.now
        else:
            self._times[part] = self._times.get(part, 0) + 1
        self._at_work.append((part, self._last))

    def end(self, depth: int) -> None:
        """End the parts within as many as were at work before them, also those that an error left."""
        while self.depth > depth:
            self._charge()
            part, start = self._at_work.pop()
            if self.now not in WHOLE:
                self._keep(part, start)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block as this part; of another thread than its own nothing."""
        if threading.get_ident() != self._thread:
            yield
            return
        depth = self.depth
        try:
            self.begin(name)
            if self.label is None:
                yield
            else:
                with self.label(name):
                    yield
        finally:
            self.end(depth)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are counted as this part."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return function(*args, **kwargs)

        return call

    def parts(self) -> dict[str, PartTime]:
        """What each part took until now, in the order of PARTS."""
        self._charge()
        return {
            name: PartTime(seconds=round(self._seconds[name], 6), times=self._times.get(name, 1))
            for name in PARTS
            if name in self._seconds
        }

    def _charge(self) -> None:
        """Add the time since the last call to the part at work."""
        self._settle()
        now = self._clock()
        self._seconds[self.now] = self._seconds.get(self.now, 0.0) + now - self._last
        self._last = now

    def _keep(self, part: str, start: float) -> None:
        if len(self.spans) < MOST_SPANS:
            self.spans.append(Span(part, start - self._origin, self._last - self._origin, self.step))
        else:
            self.left_out += 1
