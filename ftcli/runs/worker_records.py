"""The lines of a worker's output that it wrote itself, and records of its progress, for a terminal that draws them.

A record is a line of JSON behind MARK, a line for the user stands behind OWN: characters that no text of the worker's
can hold, as its output is cleaned. A record is checked all the same, since a library may write past Python.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TERMINAL = "FTCLI_TERMINAL"
"""Environment variable that tells a worker how it may write of its progress: one of these."""
LINES, REDRAWS, RECORDS = "0", "1", "records"
OUTPUT, MARKED = "FTCLI_OUTPUT", "marked"
"""Environment variable that makes a worker mark what it says itself, by OWN before each line."""
OWN = "\x1e"
MARK = "\x1f"
MEASURES = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "reward",
    "tokens_per_second": "tokens/s",
    "peak_resident_gib": "GiB",
    "peak_reserved_gib": "GiB of GPU",
}
"""What a record holds of a line of metrics, and how a person reads it."""
_STEP = re.compile(r"(?: (?:at|for) step |-)\d+$")
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record: what of it is not empty is news."""

    begins: str = ""
    """A phase that begins, within those that have not ended."""
    ends: str = ""
    """A phase that ends."""
    seconds: float = 0.0
    """How long it took."""
    failed: bool = False
    """Whether it ended with an error, or was stopped."""
    done: int | None = None
    """How far the present phase is."""
    total: int | None = None
    unit: str = ""
    seconds_left: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """The last value of some of MEASURES."""
    line: str = ""
    """For the log, which keeps what a plain terminal would show."""

    def text(self) -> str:
        """The record as a line."""
        told = {
            key: value
            for key, value in asdict(self).items()
            if value not in ("", None, False, {}) or (key == "done" and value == 0)
        }
        return f"{MARK}{json.dumps(told)}\n"


def read(text: str) -> Record | None:
    """The record of what stands behind MARK; None for what is none."""
    try:
        told = json.loads(text)
        record = Record(**told)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (record.begins, record.ends, record.unit, record.line)
    counts = (record.done, record.total)
    right = (
        all(isinstance(each, str) for each in texts)
        and all(each is None or (type(each) is int and each >= 0) for each in counts)
        and (record.seconds_left is None or _is_number(record.seconds_left))
        and _is_number(record.seconds)
        and isinstance(record.measures, dict)
        and all(key in MEASURES and _is_number(value) for key, value in record.measures.items())
        and all(len(each) <= _LONGEST_NAME for each in texts[:3])
    )
    return record if right else None


def measures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """What a record holds of a line of metrics."""
    return {key: line[key] for key in MEASURES if _is_number(line.get(key))}


def kind(phase: str) -> str:
    """What a phase does, without the step that it does it at."""
    return _STEP.sub("", phase)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
