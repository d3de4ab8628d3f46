"""Short descriptions of values in rows, for errors."""

from __future__ import annotations

import json
import math
from typing import Any

_NAMES = {
    "bytes": "bytes that are not UTF-8",
    "Decimal": "a decimal number",
    "date": "a date",
    "time": "a time",
    **dict.fromkeys(("datetime", "Timestamp"), "a date and time"),
    **dict.fromkeys(("timedelta", "Timedelta"), "a duration"),
}
"""Types of Python and pandas that a column of a parquet or Arrow file may have, and what they hold."""


def describe_type(value: Any) -> str:
    """The type of a value without its content: text, a number, a list of 3, …"""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text" if value.strip() else "empty"
    if isinstance(value, int | float):
        return "a number"
    if (name := _NAMES.get(type(value).__name__)) is not None:
        return name
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value)) or 'nothing'}"
    return type(value).__name__


def describe_value(value: Any) -> str:
    """A value with its content, if it is a text or a number; texts are shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.strip():
        return f"the text {value if len(value) <= 40 else value[:40] + '…'!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {json.dumps(value)}"  # as written in the file: NaN, Infinity
    return f"the number {value}" if isinstance(value, int | float) else describe_type(value)
