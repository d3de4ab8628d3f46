"""Printing of problems, tables and JSON, with the same number formats everywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ftcli.core.errors import FtcliError
from ftcli.core.text import aligned, count, duration
from ftcli.core.untrusted.printable import beneath, one_line

__all__ = [
    "count", "data", "drawable", "duration", "line", "lines", "note", "notes", "problems", "say", "styled", "table",
    "text", "warn",
]  # fmt: skip


_PLAIN = str.maketrans(
    {"▁": "_", "▂": ".", "▃": "-", "▄": "~", "▅": "=", "▆": "+", "▇": "*", "█": "#", "→": "->", "…": "...", "×": "x"}
)
"""What ftcli draws, for a terminal that has ASCII alone; from the lowest block to the highest."""


def note(text: str) -> None:
    """Print a line for the user on stderr, apart from the command's own output."""
    _print_apart(one_line(text))


def notes(several: str) -> None:
    """Print text of several lines on stderr, whose parts are cleaned already."""
    _print_apart(several)


def _print_apart(text: str) -> None:
    # Written as one, since what a worker says is copied to the same stream by another thread.
    print(f"{text}\n", end="", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning of one line on stderr."""
    note(f"warning: {text}")


def say(text: str = "") -> None:
    """Print one line on stdout; a newline in what it names is no line of its own."""
    print(drawable(one_line(text)), flush=not text)


def drawable(text: str) -> str:
    """The text with what stdout can show in place of the blocks of a curve and other characters of ftcli's own."""
    if text.isascii() or _has_blocks():
        return text
    return text.translate(_PLAIN)


def _has_blocks() -> bool:
    if os.environ.get("LC_ALL") in ("C", "POSIX"):  # under which Python takes UTF-8 all the same
        return False
    try:
        "▁█→".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def text(several: str, end: str = "\n") -> None:
    """Print text of several lines on stdout."""
    print(several, end=end)


def styled(text: str) -> None:
    """Print a line that is cleaned already, with colours of ftcli's own."""
    print(text, file=beneath(sys.stdout))


def problems(error: FtcliError, *, as_json: bool) -> None:
    """Print all problems of an error, as text on stderr or as JSON on stdout."""
    if as_json:
        data([dataclasses.asdict(problem) for problem in error.problems], key="problems")
        return
    for problem in error.problems:
        notes(str(problem))
    if len(error.problems) > 1:
        note(f"{len(error.problems)} problems")


def data(value: Any, *, key: str | None = None) -> None:
    """Print a value as JSON on stdout."""
    print(json.dumps({key: value} if key else value, indent=2, ensure_ascii=False, default=_plain))


def line(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def table(rows: Iterable[Sequence[str]], *, indent: str = "  ") -> None:
    """Print rows in aligned columns; the last column is not padded."""
    lines(aligned(rows, indent=indent))


def lines(found: Iterable[str]) -> None:
    """Print each line on stdout."""
    for one in found:
        say(one)
