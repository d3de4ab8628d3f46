"""Tells a terminal that draws the progress of this process how far it is; nobody else, and only for the first one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ftcli.core.untrusted.printable import beneath
from ftcli.runs.worker_records import RECORDS, TERMINAL, Record, measures_of

COUNT_SECONDS = 0.2
"""Between two counts of steps."""
_counted = 0.0


def wanted() -> bool:
    """Whether anybody draws them."""
    return os.environ.get(TERMINAL) == RECORDS and os.environ.get("RANK", "0") == "0"


def send(record: Record) -> None:
    """Write a record, if it is wanted."""
    if wanted():
        out = beneath(sys.stderr)
        with suppress(OSError):  # a terminal that is gone is no reason to end
            out.write(record.text())
            out.flush()


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
