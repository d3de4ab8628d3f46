"""The live view of a training on a terminal: a bar for each phase, and what was measured last.

Only its own few lines are drawn anew. What has ended stays above them as a line of its own, and so does all that
anybody else writes to standard error meanwhile: notes, warnings, the error that ends the run. Nothing of the terminal's
own state is changed, so that a command which is killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from ftcli.cli.render.phase_rows import WIDEST, PhaseRows
from ftcli.cli.render.redrawing import MARGIN, erasing, in_foreground, size
from ftcli.core.untrusted.printable import beneath, printable
from ftcli.launch.screen import Screen, can_be_redrawn
from ftcli.runs.worker_records import Record

DRAW_SECONDS = 0.25


class LiveView(Screen):
    """Draws on a terminal what the records of a worker tell."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._console = Console(file=terminal, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._lock = threading.RLock()
        self._phases = PhaseRows()
        self._widths: list[int] = []
        """Of the lines that are drawn at the moment."""
        self._pending = ""
        self._over: threading.Event | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def write(self, text: str) -> int:
        """Write text, cleaned, above what is drawn; the part of a line waits for its rest while anything is."""
        with self._lock:
            whole = self._pending + printable(text)
            if self._over is not None:
                lines, newline, self._pending = whole.rpartition("\n")
                whole = lines + newline
            else:
                self._pending = ""
            if whole:
                self._paint(whole)
        return len(text)

    def flush(self) -> None:
        """Nothing waits but the part of a line."""

    def take(self, record: Record) -> None:
        """Take note of a record; what it ends stays on the screen."""
        with self._lock:
            ended = self._phases.take(record, time.monotonic(), self._width())
            if self._over is not None and (ended is not None or record.begins):
                self._paint(self._rendered(ended) + "\n" if ended is not None else "")

    def begin(self) -> None:
        """Draw from here on, by a thread of its own."""
        with self._lock:
            if self._over is None:
                self._phases, self._over = PhaseRows(), threading.Event()
                threading.Thread(target=self._keep_drawing, args=(self._over,), daemon=True).start()

    def end(self) -> None:
        """Erase what is drawn, and draw no longer."""
        with self._lock:
            if self._over is not None:
                self._over.set()
                self._over = None
                rest, self._pending = self._pending, ""
                with contextlib.suppress(OSError):  # a terminal that is gone
                    self._paint(f"{rest}\n" if rest else "")

    def _keep_drawing(self, over: threading.Event) -> None:
        while not over.wait(DRAW_SECONDS):
            with self._lock, contextlib.suppress(OSError):
                if not over.is_set():
                    self._paint()

    def _paint(self, above: str = "") -> None:
        """Write in one go: erase the lines that are drawn, some text in their place, the lines as they are now."""
        columns, height = size(self._terminal)
        shown = in_foreground(self._terminal)
        erase = erasing(self._widths, columns) if shown else ""
        rows = self._phases.rows(time.monotonic(), self._width()) if self._over is not None and shown else None
        frame = self._rendered(rows).split("\n")[: height - 1] if rows is not None else []
        self._widths = [cell_len(Text.from_ansi(line).plain) for line in frame]
        if text := erase + above + "\n".join(frame):
            self._terminal.write(text)
            self._terminal.flush()

    def _rendered(self, shown: RenderableType) -> str:
        with self._console.capture() as drawn:
            self._console.print(shown, width=self._width(), end="")
        return "\n".join(line.rstrip() for line in drawn.get().rstrip("\n").split("\n"))

    def _width(self) -> int:
        return max(1, min(size(self._terminal)[0] - MARGIN, WIDEST))


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """Draw the progress of the workers that are started in the block, where standard error is a terminal for it."""
    if isinstance(sys.stderr, Screen) or not can_be_redrawn():
        yield
        return
    before, view = sys.stderr, LiveView(beneath(sys.stderr))
    sys.stderr = view  # type: ignore[assignment]
    try:
        yield
    finally:
        view.end()
        sys.stderr = before
