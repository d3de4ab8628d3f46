"""Whether what a run writes about itself has the form that ftcli gives it: result, row ledger, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

MOST_LINE_BYTES = 64 << 20
"""Of one line of metrics, a journal or rows."""


def faults(run: Path, *, finished: bool) -> Iterator[tuple[str, str]]:
    """Each record that is there with its fault, "" for none; of a finished run also what is missing."""
    if finished:
        try:
            rundir.read_result(run)
            yield rundir.RESULT, ""
        except ConfigError as error:
            yield rundir.RESULT, "; ".join(each.what for each in error.problems)
    if (run / rundir.LEDGER).is_file():
        yield rundir.LEDGER, _ledger_fault(run / rundir.LEDGER)
    elif finished:
        yield rundir.LEDGER, "is missing although the run is finished"
    if (run / rundir.METRICS).is_file():
        yield rundir.METRICS, _metrics_fault(run / rundir.METRICS, cut=not finished)
    elif finished:
        yield rundir.METRICS, "is missing although the run is finished"


def line_fault(file: Path, *, cut: bool) -> str:
    """Why a file is not one JSON object a line; "" where it is.

    Args:
        cut: whether its last line may be incomplete, as a kill leaves it.
    """
    try:
        for _ in _objects(file, cut=cut):
            pass
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    return ""


def _ledger_fault(file: Path) -> str:
    try:
        train = foreign_files.read_json(file)["train"]
        return "" if type(train["rows_read"]) is int else "is no row ledger"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, LookupError, TypeError):
        return "is no row ledger"


def _metrics_fault(file: Path, *, cut: bool) -> str:
    try:
        steps = [line.get("step") for line in _objects(file, cut=cut)]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    numbers = [step for step in steps if type(step) is int]
    if len(numbers) < len(steps):
        return "has a line without a step"
    for number, (before, step) in enumerate(pairwise(numbers), 2):
        if step < before:
            return f"line {number} is of step {step}, after one of step {before}"
    return ""


def _objects(file: Path, *, cut: bool) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is none, with its number.
    """
    with foreign_files.opened(file) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(MOST_LINE_BYTES), b""), 1):
            if cut and not raw.endswith(b"\n"):
                return
            try:
                found = foreign_files.parse_json(raw)
            except ValueError:
                raise ValueError(f"line {number} is not JSON") from None
            if not isinstance(found, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield found
