"""What this process itself has to say to the user, apart from what libraries print.

Libraries warn, log and print for those who program with them. All that goes to the log of a run; the front half shows
what was written here, which it knows by a mark that no other text holds. A terminal that draws the progress of this
process is told how far it is by records, which only the first process of a run writes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ftcli.core.untrusted.printable import beneath, process_output
from ftcli.runs.worker_records import MARKED, OUTPUT, OWN, RECORDS, TERMINAL, Record, measures_of

COUNT_SECONDS = 0.2
"""Between two counts of steps."""
_counted = 0.0


def say(text: str) -> None:
    """Write lines for the user."""
    lines = process_output(text).removesuffix("\n").split("\n")
    _write("".join(f"{_mark()}{line}\n" for line in lines))


def redraw(text: str) -> None:
    """Write text in the place of the last line, for a terminal; it begins with a carriage return."""
    _write(f"{_mark()}{process_output(text)}" + ("\n" if _mark() else ""))


def takes_records() -> bool:
    """Whether anybody draws them."""
    return os.environ.get(TERMINAL) == RECORDS and os.environ.get("RANK", "0") == "0"


def send(record: Record) -> None:
    """Write a record, if it is wanted."""
    if takes_records():
        with suppress(OSError):  # a terminal that is gone is no reason to end
            _write(record.text())


def count(done: int, total: int | None, unit: str) -> None:
    """Tell how far the present phase is, unless that was told a moment ago."""
    global _counted
    now = time.monotonic()
    if done == total or now - _counted >= COUNT_SECONDS:
        _counted = now
        send(Record(done=done, total=total, unit=unit))


def step(line: Mapping[str, Any], total: int, seconds_left: float | None, text: str) -> None:
    """Tell what was measured at a step.

    Args:
        line: of metrics.jsonl.
        text: the line of progress, for the log.
    """
    send(
        Record(
            done=line["step"], total=total, unit="steps", seconds_left=seconds_left, measures=measures_of(line),
            line=text,
        )
    )  # fmt: skip


def _mark() -> str:
    return OWN if os.environ.get(OUTPUT) == MARKED else ""


def _write(text: str) -> None:
    out = beneath(sys.stderr)
    out.write(text)
    out.flush()
