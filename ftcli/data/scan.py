"""A set's rows, one after the other, as the method takes them; whatever is wrong with one is counted on the way.

The only way rows are read, by `ftcli data check`, by a plan and by a run, so that all three say the same of them.
"""

from __future__ import annotations

import marshal
import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import Any, NamedTuple

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.describe import said
from ftcli.data.files.locate import DataFile
from ftcli.data.files.reader import Row, read_rows
from ftcli.data.formats import registry
from ftcli.data.formats.columns import column
from ftcli.data.formats.conversations import last_trained
from ftcli.data.quality_checks import findings
from ftcli.data.row_ledger import DUPLICATE, Ledger
from ftcli.methods.method import Method
from ftcli.settings.groups import SetSettings


class Example(NamedTuple):
    """One canonical row: its place (file:line), its kind and its columns (see data/formats.py).

    `digest` and `asked` are equal for equal rows and equal prompts, `group` for equal values of `data.eval_group`;
    `asked` and `group` are 0 where there is no such thing.
    """

    where: str
    kind: str
    value: dict[str, Any]
    digest: int = 0
    asked: int = 0
    group: int = 0


class _Enough(Exception):
    """As many rows were looked at as were asked for, the last of them one that cannot be read."""


@dataclass
class Scan:
    """Iterates over the usable rows of a set, and tells the ledger of all others."""

    files: Sequence[DataFile]
    settings: SetSettings
    method: Method
    ledger: Ledger
    group: str | None = None
    """Column whose value `Example.group` stands for."""
    max_rows: int | None = None
    """Usable or not, no more rows are looked at."""
    max_usable: int | None = None
    on_error: Callable[[Problem], None] | None = None
    prompts: bool = True
    """Whether `Example.asked` is worked out."""
    _looked: int = field(default=0, init=False)
    _format: registry.Format | None = field(default=None, init=False)
    _columns: list[str] = field(default_factory=list, init=False)
    """Those that the format needs, under the names that the first row has them by."""
    _digests: array[int] = field(default_factory=lambda: array("Q"), init=False)
    _lines: array[int] = field(default_factory=lambda: array("q"), init=False)
    _starts: list[tuple[int, str]] = field(default_factory=list, init=False)
    """Usable rows before each file, and its name: with the lines, eight bytes tell a row's place."""

    def __iter__(self) -> Iterator[Example]:
        """Reads as it is asked for rows.

        Raises:
            DataError: the rows are of no known format or of no kind that the method takes, a file cannot be read on,
                or there is no row.
            ConfigError: `settings.columns` or the group names a column that is not there.
        """
        usable = self._looked = 0
        try:
            for row in chain.from_iterable(read_rows(file, self._unread) for file in self.files):
                self._looked += 1
                example = self._example(row)
                if example is not None:
                    usable += 1
                    yield example
                if usable == self.max_usable or self._looked == self.max_rows:
                    break
        except _Enough:
            pass
        self._tell_duplicates()

    def _unread(self, problem: Problem) -> None:
        """A row that is none: told by the reader on its way to the next."""
        self._looked += 1
        self._refuse(problem)
        if self._looked == self.max_rows:
            raise _Enough

    def _refuse(self, problem: Problem) -> None:
        self.ledger.error(problem)
        if self.on_error is not None:
            self.on_error(problem)

    def _example(self, row: Row) -> Example | None:
        if self.group and self.group not in row.value:
            what = f"has no column {self.group!r} to group by; its columns are {', '.join(row.value)}"
            self._refuse(RowProblem(row.where, what, "name another column in data.eval_group", field=self.group))
            return None
        given = row
        try:
            if self.settings.columns:
                row = registry.apply_mapping(row, self.settings.columns)
            fmt = self._format or self._recognised(row)
            kind, value = converted(fmt, row, self.method, self.settings.roles)
            if self.settings.margin_column:
                value = {**value, "margin": margin_of(given, self.settings.margin_column)}
        except DataError as error:
            if self._format is None:  # nothing is known of the set yet: the first row decides what it is
                raise
            self._refuse(self._as_written(error.problems[0], given))
            return None
        self.ledger.rows_read += 1
        for found in findings(fmt, row.value, value):
            self.ledger.finding(found.kind, row.where, self._field(found.field), found.what)
        if self.settings.trained_turns == "last":
            value = last_trained(value)
        digest = _number(value)
        if not self._starts or self._starts[-1][1] != row.file:
            self._starts.append((len(self._digests), row.file))
        self._digests.append(digest)
        self._lines.append(row.line)
        group = _number(given.value[self.group]) if self.group else 0
        return Example(row.where, kind, value, digest, _asked(value) if self.prompts else 0, group)

    def _field(self, field: str) -> str:
        """A field under the name that it has in the file."""
        name = re.match(r"[^.\[]*", field)[0]  # type: ignore[index]
        return (self.settings.columns or {}).get(name, name) + field[len(name) :]

    def _as_written(self, problem: Problem, row: Row) -> RowProblem:
        """A problem under the name that its field has in the file."""
        mapped = self.settings.columns or {}
        named = problem.field if isinstance(problem, RowProblem) else ""
        if not named:  # a column that the first row had and this one lacks
            wanted = [*mapped.values(), *(mapped.get(name, name) for name in self._columns)]
            named = next((name for name in wanted if row.value.get(name) is None), "")
            return RowProblem(problem.where, problem.what, problem.fix, field=named)
        written, what = self._field(named), problem.what
        if written != named and what.startswith(named):
            what = written + what[len(named) :]
        return RowProblem(problem.where, what, problem.fix, field=written)

    def _place(self, index: int) -> str:
        file = self._starts[bisect_right(self._starts, index, key=lambda start: start[0]) - 1][1]
        return f"{file}:{self._lines[index]}"

    def _tell_duplicates(self) -> None:
        for index, first in repeated(self._digests):
            self.ledger.finding(DUPLICATE, self._place(index), "", f"is the same as {self._place(first)}")

    def _recognised(self, row: Row) -> registry.Format:
        fmt = (
            registry.recognise(row.value) if self.settings.format == "auto" else registry.FORMATS[self.settings.format]
        )
        if fmt is None:
            raise DataError(registry.columns_error(row.value, row.where))
        problem = registry.kind_problem(fmt, row.value, row.where, self.method.kinds, self.method.name)
        if problem is not None:
            raise DataError(problem)
        if self.settings.format != "auto" and (lacking := fmt.faults(row.value)):
            what = f"the row is not of the format {fmt.name}: {'; '.join(lacking)}"
            raise DataError(Problem(row.where, what, "name another data.format, or map the columns with data.columns"))
        self._format, self.ledger.format = fmt, fmt.name
        self._columns = [name for need in fmt.needs if (name := column(row.value, need.names))]
        return fmt


def converted(
    fmt: registry.Format, row: Row, method: Method, roles: dict[str, str] | None
) -> tuple[str, dict[str, Any]]:
    """Kind and columns of a row as the method takes it.

    Raises:
        DataError: the row cannot be used.
    """
    value = registry.convert(fmt, row, wanted=method.kinds, roles=roles)
    kind = registry.kind_after(fmt.kind, method.kinds)
    assert kind is not None
    if kind == "pair" and method.templates_pairs and isinstance(value["prompt"], str):
        value = {**value, "prompt": [{"role": "user", "content": value["prompt"]}]}
        value["completion"] = [{"role": "assistant", "content": value["completion"]}]
    return kind, value


def margin_of(row: Row, name: str) -> float:
    """The margin that a row states in the column of that name.

    Raises:
        DataError: it is not there, or no number.
    """
    if name not in row.value:
        what = f"has no column {name!r} with a margin; its columns are {', '.join(row.value)}"
        raise DataError(RowProblem(row.where, what, "name another column in data.margin_column", field=name))
    try:
        margin = float(row.value[name])
    except (TypeError, ValueError):
        margin = math.nan
    if not math.isfinite(margin):
        what = f"{name} is {said(row.value[name])}, not a number"
        raise DataError(RowProblem(row.where, what, "give every row the margin of its pair", field=name))
    return margin


def _number(value: Any) -> int:
    """64 bits that are equal for equal plain values, in every process and on every machine; never 0."""
    try:
        plain = marshal.dumps(value, 2)  # version 2 writes values only, without references
    except ValueError:  # a date or a decimal out of a parquet file
        plain = repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(plain, digest_size=8).digest(), "big") | 1


def _asked(value: dict[str, Any]) -> int:
    """What stands for a row's prompt; 0 for text, which has none."""
    if "prompt" in value:
        return _number(value["prompt"])
    turns = value.get("messages")
    return _number([turn for turn in turns if turn["role"] != "assistant"]) if turns else 0


def repeated(digests: array[int]) -> list[tuple[int, int]]:
    """Indices of rows that occurred before, each with the index of the first such row, in order."""
    first: dict[int, int] = {}
    return [(index, seen) for index, digest in enumerate(digests) if (seen := first.setdefault(digest, index)) != index]


def first_rows(files: Sequence[DataFile], count: int) -> list[Row]:
    """The first usable rows of a set's files, as they stand there.

    Raises:
        DataError: none can be read.
    """
    faults: list[Problem] = []
    found: list[Row] = []
    for row in chain.from_iterable(read_rows(file, faults.append) for file in files):
        found.append(row)
        if len(found) == count:
            break
    if not found:
        raise DataError(*faults[:1])
    return found
