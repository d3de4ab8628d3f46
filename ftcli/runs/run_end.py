"""end.json: how the last command on a run ended, for programs that watch its directory.

The rank that fails first writes it, as it alone has the cause; torch's launcher returns 1 for every one. Where no rank
could (it was killed, or hung), the front half does. It is absent while the run is at work.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ftcli.core.exit_codes import EXIT_CODES, EXIT_NAMES
from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.printable import one_line
from ftcli.runs import rundir

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a run ended."""

    code: int
    """The exit code (core/exit_codes.py)."""
    message: str = ""
    """What happened, as it was told."""
    rank: int | None = None
    """The process that failed first; None where it is not known, or where the run as a whole ended."""
    host: str = ""
    """The machine of that process, or of the front half that wrote this."""
    step: int | None = None
    """The step at which that process was; None before the first."""
    phase: str | None = None
    """What that process was doing."""

    def text(self) -> str:
        """One line for people."""
        where = [] if self.rank is None else [f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"]
        where += [] if self.step is None else [f"at step {self.step}"]
        where += [f"while {self.phase}"] if self.phase else []
        place = f" ({', '.join(where)})" if where else ""
        what = self.message or EXIT_CODES[self.code]
        return one_line(f"exit code {self.code}, {EXIT_NAMES[self.code]}{place}: {what}")


def this_host() -> str:
    """The name of this machine."""
    return socket.gethostname()


def write(run: Path, end: RunEnd) -> None:
    """Write end.json; nothing where the directory takes no file any more, since how a run ended is told anyway."""
    name = EXIT_NAMES.get(end.code, EXIT_NAMES[1])
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with suppress(OSError):
        rundir.write_json(run / rundir.END, {"schema": SCHEMA, "name": name, **asdict(end), "time": now})


def read(run: Path) -> RunEnd | None:
    """How the last command on a run ended; None where it is at work, or the file is not as ftcli writes it."""
    try:
        raw = foreign_files.read_json(run / rundir.END)
        end = RunEnd(**{name: raw[name] for name in RunEnd.__dataclass_fields__})
    except (OSError, ValueError, LookupError, TypeError):
        return None
    texts = all(isinstance(text, str) for text in (end.message, end.host, end.phase or ""))
    numbers = all(number is None or type(number) is int for number in (end.rank, end.step))
    return end if texts and numbers and type(end.code) is int and end.code in EXIT_CODES else None


def remove(run: Path) -> None:
    """Forget how the last command ended, since another one begins."""
    with suppress(FileNotFoundError):
        os.unlink(run / rundir.END)
