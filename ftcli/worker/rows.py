"""Rows from a file to examples of the kind that the method takes, each with the place it came from.

Every unusable row is told, not only the first: whoever mends a file wants the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ftcli.data import formats
from ftcli.data.read import Row, read_rows
from ftcli.errors import DataError, FtcliError, Problem
from ftcli.methods.base import Method
from ftcli.settings import DataSettings

_MOST_TOLD = 20


class Example(NamedTuple):
    """One canonical row: its place (file:line), its kind and its columns (see data/formats.py)."""

    where: str
    kind: str
    value: dict[str, Any]


def read_examples(path: Path, data: DataSettings, method: Method, limit: int | None = None) -> Iterator[Example]:
    """The first `limit` rows of the file as examples of a kind that the method takes.

    Raises:
        DataError: rows that cannot be read or are of no kind that the method takes, all of them at once, at the end.
    """
    problems: list[Problem] = []
    fmt: formats.Format | None = None
    for row in islice(read_rows(path, problems.append), limit):
        if data.columns:
            row = formats.apply_mapping(row, data.columns)
        fmt = fmt or _format_of(row, data, method)
        try:
            yield Example(row.where, *_converted(fmt, row, method))
        except FtcliError as error:
            problems.extend(error.problems)
    if problems:
        more = len(problems) - _MOST_TOLD
        tail = [Problem(str(path), f"and {more} more unusable rows")] if more > 0 else []
        raise DataError(*problems[:_MOST_TOLD], *tail)


def format_name(path: Path, data: DataSettings, method: Method) -> str:
    """The name of the format that the file's rows are read as."""
    row = next(iter(read_rows(path)))
    return _format_of(formats.apply_mapping(row, data.columns) if data.columns else row, data, method).name


def held_out(num_rows: int, share: float, seed: int) -> frozenset[int]:
    """Indices of the rows that are kept from training: at least one, never all."""
    count = min(max(1, round(share * num_rows)), num_rows - 1)
    return frozenset(Random(seed).sample(range(num_rows), count)) if count > 0 else frozenset()


def count_rows(path: Path, limit: int | None) -> int:
    """How many usable rows `read_examples` goes through."""
    faults: list[Problem] = []
    return sum(1 for _ in islice(read_rows(path, faults.append), limit))


def _format_of(row: Row, data: DataSettings, method: Method) -> formats.Format:
    fmt = formats.recognise(row.value) if data.format == "auto" else formats.FORMATS.get(data.format)
    if fmt is None:
        raise DataError(formats.columns_error(row.value, row.where))
    problem = formats.kind_problem(fmt, row.value, row.where, method.kinds, method.name)
    if problem is not None:
        raise DataError(problem)
    return fmt


def _converted(fmt: formats.Format, row: Row, method: Method) -> tuple[str, dict[str, Any]]:
    value = formats.convert(fmt, row, wanted=method.kinds)
    kind = formats.kind_after(fmt.kind, method.kinds)
    assert kind is not None
    if kind == "pair" and method.templates_pairs:
        value = {**value, "prompt": _spoken(value["prompt"], "user")}
        value["completion"] = _spoken(value["completion"], "assistant")
    return kind, value


def _spoken(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value
