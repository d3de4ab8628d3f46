"""The errors that users see: a Problem names the place, the fault and the remedy.

A user's mistake never shows a traceback. Any exception but FtcliError is a bug in ftcli: exit 1, full traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from ftcli.core.exit_codes import (
    EXIT_CHECKPOINT,
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_DISK,
    EXIT_GATE,
    EXIT_INTERRUPTED,
    EXIT_MEMORY,
    EXIT_NOT_FINITE,
    EXIT_RANK_LOST,
)
from ftcli.core.untrusted.printable import one_line


def _short(text: str, limit: int = 400) -> str:
    """The text on one line, shortened for the screen: a value of a megabyte is not printed in full."""
    return one_line(text if len(text) <= limit else f"{text[: limit - 40]} … {text[-20:]}")


@dataclass(frozen=True)
class Problem:
    """One fault: `where` is file:line or the override as typed, `what` the fault, `fix` the remedy."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        head = f"{_short(self.where)}  {_short(self.what)}" if self.where else _short(self.what)
        return f"{head}\n  fix: {one_line(self.fix)}" if self.fix else head


@dataclass(frozen=True)
class RowProblem(Problem):
    """A fault in one row of a file; `field` is the path inside the row, "" for the row as a whole."""

    field: str = field(default="", kw_only=True)


class FtcliError(Exception):
    """A user's mistake, with all the problems found, reported at once."""

    exit_code = EXIT_CONFIG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems: Sequence[Problem] = problems


class ConfigError(FtcliError):
    """A mistake found before any row is read: exit 2."""


class DataError(FtcliError):
    """A mistake found in the rows: exit 3."""

    exit_code = EXIT_DATA


class OutOfMemory(FtcliError):
    """A GPU or the machine had no memory left: exit 4."""

    exit_code = EXIT_MEMORY


class CheckpointError(FtcliError):
    """There are checkpoints, and none can be resumed from: exit 5."""

    exit_code = EXIT_CHECKPOINT


DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""With these the system says that a disk takes no more."""


class DiskError(FtcliError):
    """The disk takes no more: exit 6."""

    @classmethod
    def of(cls, error: OSError) -> DiskError:
        """The error for what the system said."""
        named = str(error.filename or "the disk")
        return cls(Problem(named, f"cannot be written: {error.strerror or error}", "free some space, then resume"))

    exit_code = EXIT_DISK


class NotFinite(FtcliError):
    """A loss or gradient is not a number: exit 7."""

    exit_code = EXIT_NOT_FINITE


class GateFailed(FtcliError):
    """A run is whole, and its result is not good enough: exit 9."""

    exit_code = EXIT_GATE


class RankLost(FtcliError):
    """Another process of the run died or stopped answering: exit 8, resumable."""

    exit_code = EXIT_RANK_LOST


class InterruptedRun(FtcliError):
    """A run stopped by a signal after it saved a checkpoint: exit 75, resumable."""

    exit_code = EXIT_INTERRUPTED
