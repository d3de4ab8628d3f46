"""Lines at the end of a terminal that are drawn anew in their place.

Nothing of the terminal's own state is changed, so that a command which is killed leaves none behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

SIZE = (80, 24)
"""Of a terminal that does not tell its own."""
MARGIN = 3
"""Columns that stay free at the right, for the ^C that a terminal writes behind the cursor."""


def size(terminal: TextIO) -> tuple[int, int]:
    """Columns and lines, looked up anew: no signal tells a process in a session of its own of a new size."""
    try:
        columns, lines = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):
        return SIZE
    return columns or SIZE[0], lines or SIZE[1]


def erasing(widths: Sequence[int], columns: int) -> str:
    """What erases the last lines, of so many columns each, with the cursor in the last one.

    A terminal that became narrower has broken them into several.
    """
    if not widths:
        return ""
    lines = sum(max(1, -(-width // columns)) for width in widths)
    return "\r" + (f"\x1b[{lines - 1}A" if lines > 1 else "") + "\x1b[J"


def in_foreground(terminal: TextIO) -> bool:
    """Whether the terminal is this command's at the moment, and not that of a shell which has it in the background.

    A job of a sweep is in a session without a terminal of its own, and draws on that of the sweep.
    """
    try:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True
