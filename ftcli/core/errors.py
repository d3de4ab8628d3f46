"""What can go wrong and how it is told: a Problem names the place, the fault and the remedy.

A user's mistake never shows a traceback. Whatever is not an FtcliError is a bug of ours: exit 1, whole traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_INTERRUPTED = 75


def _short(text: str, limit: int = 400) -> str:
    """The text on the screen: someone's megabyte of a value is not repeated whole."""
    return text if len(text) <= limit else f"{text[: limit - 40]} … {text[-20:]}"


@dataclass(frozen=True)
class Problem:
    """One fault: `where` is file:line or the override as typed, `what` the fault, `fix` the remedy."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        head = f"{_short(self.where)}  {_short(self.what)}" if self.where else _short(self.what)
        return f"{head}\n  fix: {self.fix}" if self.fix else head


@dataclass(frozen=True)
class RowProblem(Problem):
    """A fault inside the rows of a file; `field` is its path inside the row, "" if it is the row as a whole."""

    field: str = field(default="", kw_only=True)


class FtcliError(Exception):
    """A user's mistake: all problems found, told at once."""

    exit_code = EXIT_CONFIG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems: Sequence[Problem] = problems


class ConfigError(FtcliError):
    """Found before any row was read: exit 2."""


class DataError(FtcliError):
    """Found inside the rows: exit 3."""

    exit_code = EXIT_DATA


class InterruptedRun(FtcliError):
    """Stopped by a signal with a checkpoint behind it: exit 75, resumable."""

    exit_code = EXIT_INTERRUPTED
