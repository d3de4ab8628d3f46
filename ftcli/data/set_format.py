"""The format of a set, recognised from its first rows together: one odd row among them does not decide it.

A row that fits a more specific format than its set is an error: what makes it more specific (a label, a rejected
answer) would be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.reader import Row
from ftcli.data.formats import registry
from ftcli.data.formats.columns import SYSTEM, TOOLS, WEIGHTS, Format, is_nothing
from ftcli.data.formats.json_text import with_json_read
from ftcli.data.formats.unread_columns import mapping_problems
from ftcli.methods.method import Method
from ftcli.settings.groups import SetSettings

SAMPLE_ROWS = 100
"""How many of a set's first rows decide its format."""


class ColumnsSeen(NamedTuple):
    """What is known of all rows with the same columns."""

    others: tuple[Format, ...]
    """The more specific formats that such a row may fit."""
    unread: tuple[str, ...] | None
    """The columns that are not read; None where that depends on their values."""


@dataclass(frozen=True)
class SetFormat:
    """The format of a set and how its rows are checked against it."""

    format: Format
    named: bool
    """Whether the user named it, so that rows may fit a more specific one."""
    needed: tuple[str, ...]
    """The columns that it needs, under their names in the first row that has them."""
    _seen: dict[tuple[str, ...], ColumnsSeen] = field(default_factory=dict)
    """What is known of rows with these columns, so that a row costs one look-up."""

    def seen(self, row: Row) -> ColumnsSeen:
        """What is known of rows with the columns of this one, which are renamed."""
        columns = tuple(row.value)
        known = self._seen.get(columns)
        if known is None:
            others = () if self.named else self._more_specific(columns)
            known = self._seen[columns] = ColumnsSeen(others, self._never_read(columns))
        return known

    def problem(self, row: Row, seen: ColumnsSeen) -> Problem | None:
        """The problem that the row fits a more specific format; None if it does not."""
        if (found := registry.recognise(row.value)) not in seen.others:
            return None
        assert found is not None
        what = f"the row is of format {found.name}, but the set is of format {self.format.name}"
        lost = " and ".join(name for name in row.value if name in _needed(found, row) - {*self.format.reads})
        fix = f"remove {lost}, give it to all rows, or set data.format={self.format.name} to train without it"
        return RowProblem(row.where, what, fix, field=lost.partition(" ")[0])

    def unread(self, row: Row, seen: ColumnsSeen) -> list[str]:
        """The columns of the row that hold something and are not read."""
        if seen.unread is None:
            return self.format.unread(row.value)
        return [name for name in seen.unread if not is_nothing(row.value[name])]

    def _never_read(self, columns: tuple[str, ...]) -> tuple[str, ...] | None:
        context = (SYSTEM, TOOLS) if self.format.kind != "text" else ()
        alternatives = (*(need.names for need in self.format.needs), *context, WEIGHTS)
        if any(len(set(names).intersection(columns)) > 1 for names in alternatives):
            return None
        return tuple(name for name in columns if name not in self.format.reads)

    def _more_specific(self, columns: tuple[str, ...]) -> tuple[Format, ...]:
        """The formats that read more of such rows: all that this one does, and another column that they need."""
        mine = _read_by_name(self.format, columns)
        others = [other for other in registry.FORMATS.values() if other is not self.format]
        return tuple(other for other in others if mine < _read_by_name(other, columns))


def _read_by_name(fmt: Format, columns: tuple[str, ...]) -> set[str]:
    """The columns that the format may read, by their names; none if one that it needs is missing."""
    needed = [set(need.names).intersection(columns) for need in fmt.needs]
    return set().union(*needed, set(fmt.optional).intersection(columns)) if all(needed) else set()


def _needed(fmt: Format, row: Row) -> set[str]:
    return {name for need in fmt.needs if (name := need.column(row.value))}


def set_format(
    rows: Sequence[Row],
    settings: SetSettings,
    method: Method,
    *,
    where: str = "",
    mapping: str = "",
    setting: str = "data.columns",
) -> SetFormat:
    """The format of the set that these rows, at least one, are the first of.

    Args:
        where: what names the set, as errors about all of its rows print it; "" is its first row.
        mapping: what names the mapping of columns; "" is `setting`.
        setting: the one that maps the columns of this set.

    Raises:
        DataError: a mapped column is missing in every row, no row matches a format (or the named one), the method
            cannot use the rows, or the format does not read a mapped column.
    """
    mapped = renamed(rows, settings)
    named = settings.format != "auto"
    fmt = registry.FORMATS[settings.format] if named else _most_common(mapped)
    if fmt is None:
        raise DataError(registry.columns_error(mapped[0].value, where or mapped[0].where, setting))
    first = next((row for row in mapped if fmt.recognise(row.value)), mapped[0])
    by = f"method={method.name}" if where else method.name
    if problem := registry.dataset_type_problem(fmt, first.value, where or first.where, method.kinds, by):
        raise DataError(problem)
    if lacking := fmt.faults(first.value):
        what = f"the row does not match format {fmt.name}: {'; '.join(lacking)}"
        raise DataError(Problem(first.where, what, "name another data.format, or map the columns with data.columns"))
    columns = {} if rewarded(fmt, method) else settings.columns or {}
    if unread := list(mapping_problems(fmt, columns, [row.value for row in mapped], mapping or setting)):
        raise DataError(*unread)
    return SetFormat(fmt, named, tuple(name for need in fmt.needs if (name := need.column(first.value))))


def rewarded(fmt: Format, method: Method) -> bool:
    """Whether the method hands all columns of such rows to its rewards."""
    return fmt.kind == "prompt" and method.rewarded


def as_read(row: Row, settings: SetSettings) -> Row:
    """The row as the formats see it: its columns renamed, and turns that are JSON text read.

    Raises:
        DataError: a mapped column is missing, or such a text is not JSON.
    """
    if settings.columns:
        row = registry.apply_mapping(row, settings.columns)
    return with_json_read(row)


def renamed(rows: Sequence[Row], settings: SetSettings) -> list[Row]:
    """The rows with their columns renamed and JSON text read, without those where that is not possible.

    Raises:
        DataError: it is possible in none.
    """
    mapped, faults = [], []
    for row in rows:
        try:
            mapped.append(as_read(row, settings))
        except DataError as fault:
            faults.append(fault)
    if not mapped:
        raise faults[0]
    return mapped


def _most_common(rows: Sequence[Row]) -> Format | None:
    """The format that is the most specific match of most rows; of several the more specific one."""
    found = Counter(fmt.name for row in rows if (fmt := registry.recognise(row.value)))
    most = max(found.values(), default=0)
    return next((fmt for name, fmt in registry.FORMATS.items() if most and found[name] == most), None)
