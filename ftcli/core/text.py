"""Numbers and tables formatted for people, shared by both halves."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from ftcli.core.untrusted.printable import one_line


def aligned(rows: Iterable[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Rows as lines in aligned columns; the last column is not padded."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(max(map(len, cells)))]
    return [
        indent + "  ".join([*(cell.ljust(widths[i]) for i, cell in enumerate(row[:-1])), row[-1]]).rstrip()
        for row in cells
    ]


def count(number: float | None) -> str:
    """A count in readable form: 1,360,000 → 1.36M; None → unknown."""
    if number is None:
        return "unknown"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_in_table(cell) for cell in line)} |\n" for line in lines)


def _in_table(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def shell_word(word: object) -> str:
    """A word as a shell takes it, for commands that are printed to be typed: a path may have spaces or parentheses.

    What a terminal must not be sent is written as bash and zsh read it in $'…'.
    """
    text = str(word)
    if one_line(text) == text:
        return shlex.quote(text)
    quoted = "".join({"\\": "\\\\", "'": "\\'"}.get(letter, one_line(letter)) for letter in text)
    return f"$'{quoted}'"


def duration(seconds: float) -> str:
    """Seconds as 1 h 02 min, 3 min 05 s or 12.3 s."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds >= 60 else f"{seconds:.1f} s"
