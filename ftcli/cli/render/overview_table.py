"""The table of `ftcli watch` on a terminal, drawn anew in its place: as much of it as there is room for."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from ftcli.cli import output
from ftcli.cli.render.redrawing import MARGIN, erasing, in_foreground, size
from ftcli.core.text import aligned
from ftcli.core.untrusted.printable import beneath, one_line
from ftcli.reports.overview import Glance, rows

_LEFT_OUT = ("curve", "held-out", "tokens/s", "reward", "left", "loss", "done")
"""Columns in the order in which a narrow terminal goes without them."""
_DOING = 20
"""Columns of what a run does, at least; the rest of it is cut."""


def fitted(found: Sequence[Glance], columns: int, lines: int) -> list[str]:
    """The lines of the table that a terminal of that size has room for, a line a run: those at work, then the newest.

    Args:
        found: runs, the newest last.
    """
    room = max(1, lines - 2)  # its head, and the line of the cursor
    note = []
    if len(found) > room:
        room = max(1, room - 1)
        newest_first = sorted(range(len(found)), key=lambda place: (found[place].over, -place))
        kept = sorted(newest_first[:room])
        note = [f"and {len(found) - len(kept)} others: ftcli watch --once shows all"]
        found = [found[place] for place in kept]
    width = max(1, columns - MARGIN)
    table = rows(found)
    for dropped in range(len(_LEFT_OUT) + 1):
        table = _shortened(rows(found, _LEFT_OUT[:dropped]), width)
        if _width(table) <= width:
            break
    return [_cut(line, width) for line in (*aligned(table, indent=""), *note)]


def _shortened(table: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """The table, a line a row, with names of half the width at most."""
    lines = [[one_line(cell) for cell in row] for row in table]
    return [(_cut(name, max(1, width // 2)), *others) for name, *others in lines]


def _width(table: Sequence[Sequence[str]]) -> int:
    widths = [max(cell_len(row[place]) for row in table) for place in range(len(table[0]))]
    if not table[0][-1] and len(widths) > 1:
        widths[-1] = min(widths[-1], _DOING)
    return sum(widths) + 2 * (len(widths) - 1)


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return output.drawable(cut.plain.rstrip())


@contextlib.contextmanager
def redrawn() -> Iterator[Callable[[Sequence[Glance]], None]]:
    """Draw the table on the terminal of standard output, each time in place of the one before."""
    terminal = beneath(sys.stdout)
    widths: list[int] = []

    def draw(found: Sequence[Glance]) -> None:
        columns, height = size(terminal)
        if not in_foreground(terminal):
            return
        # What ends stays as a whole, and may scroll.
        lines = fitted(found, columns, height if any(not each.over for each in found) else len(found) + 2)
        # The cursor is in the empty line below.
        terminal.write(erasing([*widths, 0] if widths else [], columns) + "".join(f"{line}\n" for line in lines))
        terminal.flush()
        widths[:] = [cell_len(line) for line in lines]

    yield draw
