"""Rows from CSV and its relatives: a header, then records of fields between delimiters.

The delimiter is the one that splits the header and the first records evenly, since a spreadsheet's language decides
which one it writes; `data.delimiter` names it instead.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from ftcli.data.files.describe import describe_value
from ftcli.data.files.json_reader import (
    ESCAPED_BYTE,
    MAX_ROW_BYTES,
    NOT_UTF8_FIX,
    Broken,
    Numbered,
    OnBadRow,
    not_utf8,
    peeked,
    require_short,
    text_lines,
)

NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
"""Every delimiter that is recognised, and its name."""
_SAMPLE_BYTES = 1 << 13
_DECLARED = re.compile(r'sep=([^"\r\n])\s*')
"""Excel's own first line, which declares the delimiter."""
_BEHIND_SPACE = re.compile(r'[ \t]+"')
MAX_COLUMNS = 10_000
"""Columns of one file."""
_STAND_IN = "\x1f"


class _Dialect(NamedTuple):
    """How the records of a file are written."""

    delimiter: str
    spaced: bool
    """Whether a space follows each delimiter and belongs to no field."""


def delimiter_of(setting: str) -> str | None:
    """The character that `data.delimiter` names, by its name or as itself; None for anything else."""
    named = {name: character for character, name in NAMES.items()} | {"\\t": "\t"}
    character = named.get(setting, setting)
    return character if len(character) == 1 and character not in '"\r\n ' else None


def read_delimited(handle: IO[bytes], bad_row: OnBadRow, usual: str, delimiter: str = "") -> Numbered:
    """Line and value of each record, all values text.

    Args:
        usual: the delimiter that the file's name promises; another one must fit better.
        delimiter: the delimiter, where it is known.

    Raises:
        Broken: the header or the quotes are wrong, so that the records cannot be told apart.
    """
    # The module's limit of 128 KiB per field is less than a long document, and can only be set for the whole process.
    csv.field_size_limit(MAX_ROW_BYTES)
    bad: dict[int, UnicodeDecodeError] = {}
    sample, whole = _sample(handle)
    declared = _DECLARED.fullmatch(sample[0]) if sample else None
    if declared:
        delimiter, sample = delimiter or declared[1], sample[1:]
    dialect = _dialect(sample, whole, usual, delimiter)
    lines = _Lines(handle, bad, "\n" if declared else None)
    # strict: otherwise a quote that is never closed swallows the rest of the file as one field.
    records = csv.reader(iter(lines), strict=True, delimiter=dialect.delimiter, skipinitialspace=dialect.spaced)
    header: list[str] = []
    start = 1
    while True:
        start = records.line_num + 1
        lines.begin(start)
        try:
            record = next(records, None)
        except csv.Error as fault:
            fix = "double the quotes inside a quoted field and close each one"
            name = "TSV" if dialect.delimiter == "\t" else "CSV"
            raise Broken(start, f"the record that starts here is not {name}: {fault}", fix) from None
        if record is None:
            return
        if bad:
            not_utf8(bad_row, *bad.popitem(), _escaped_fields(header, record))
            bad.clear()
            if not header:
                raise Broken(start, "the header is not UTF-8", NOT_UTF8_FIX)
        elif not record:
            continue
        elif not header:
            header = _checked_header(start, record, dialect.delimiter)
        elif (value := _value(header, record, dialect.delimiter, start, bad_row)) is not None:
            yield start, value, False


# --- the dialect of a file ------------------------------------------------------------------------------------------


class _Lines:
    """The lines as text, `first` in place of the first; those that are not UTF-8 get an entry in `bad`."""

    def __init__(self, handle: IO[bytes], bad: dict[int, UnicodeDecodeError], first: str | None) -> None:
        self._handle, self._bad, self._first = handle, bad, first
        self._start = self._size = 0

    def begin(self, line: int) -> None:
        """Count the size of a record from this line on: quotes may join all lines of a file to one."""
        self._start, self._size = line, 0

    def __iter__(self) -> Iterator[str]:
        for number, raw in text_lines(self._handle):
            self._size += len(raw)
            require_short(self._start, self._size)
            try:
                yield self._first if self._first is not None and number == 1 else raw.decode()
            except UnicodeDecodeError as fault:
                # Decoded all the same, so that only the record with this line is lost, and its field can be named.
                self._bad[number] = fault
                yield raw.decode(errors="surrogateescape")


def _sample(handle: IO[bytes]) -> tuple[list[str], bool]:
    """The first lines, as far as the buffer holds them, and whether the last of them is whole; nothing is consumed."""
    start = peeked(handle)
    with io.TextIOWrapper(io.BytesIO(start[:_SAMPLE_BYTES]), "utf-8-sig", errors="replace") as text:
        lines = list(text)
    return lines, len(start) < _SAMPLE_BYTES


def _split(sample: Sequence[str], whole: bool, delimiter: str, spaced: bool) -> list[list[str]]:
    """The records of the sample, as far as they can be separated."""
    records: list[list[str]] = []
    try:
        for record in csv.reader(sample, strict=True, delimiter=delimiter, skipinitialspace=spaced):
            if record:
                records.append(record)
    except csv.Error:
        return records
    return records if whole or len(records) < 2 else records[:-1]  # the last one may go on behind the sample


def _dialect(sample: Sequence[str], whole: bool, usual: str, delimiter: str) -> _Dialect:
    if not delimiter:
        fits: list[tuple[bool, bool, int, str]] = []
        for each in NAMES:
            records = _split(sample, whole, each, spaced=True)
            if records and (width := len(records[0])) > 1:
                even = all(len(record) == width for record in records)
                fits.append((even, each == usual, width, each))
        delimiter = max(fits)[-1] if fits else usual
    return _Dialect(delimiter, _is_spaced(sample, whole, delimiter))


def _is_spaced(sample: Sequence[str], whole: bool, delimiter: str) -> bool:
    """Whether there are quotes behind a space, and every delimiter outside quotes has a space behind it."""
    plain = _split(sample, whole, delimiter, spaced=False)
    if not any(_BEHIND_SPACE.match(field) for record in plain for field in record):
        return False
    joined = [line.replace(f"{delimiter} ", _STAND_IN) for line in sample]
    apart = [
        [field.replace(_STAND_IN, f"{delimiter} ") for field in record]
        for record in _split(joined, whole, _STAND_IN, spaced=False)
    ]
    return apart == _split(sample, whole, delimiter, spaced=True)


# --- header and records ---------------------------------------------------------------------------------------------


def _escaped_fields(header: list[str], record: list[str]) -> list[str]:
    """The columns whose text was not UTF-8, as far as the header names them."""
    return [name for name, text in zip(header, record, strict=False) if ESCAPED_BYTE.search(text)]


def _checked_header(line: int, record: list[str], delimiter: str) -> list[str]:
    header = [name.strip() for name in record]
    if len(header) > MAX_COLUMNS:
        raise Broken(line, f"the header has {len(header)} columns, more than {MAX_COLUMNS}", "keep those that are read")
    twice = sorted(name for name, times in Counter(header).items() if name and times > 1)
    if twice:
        raise Broken(line, f"the header names {', '.join(map(repr, twice))} twice", "give each column its own name")
    if not any(header):
        raise Broken(line, "the header names no column", "name the columns in the first line")
    if any(_BEHIND_SPACE.match(name) for name in record):
        raise Broken(line, "a quote stands behind a space in the header", _unspaced(delimiter))
    others = [mark for mark in NAMES if mark != delimiter and mark in header[0]]
    if len(header) == 1 and others:
        fix = f"set data.delimiter={NAMES[others[0]]}, or separate the columns by {_named(delimiter)}s"
        raise Broken(line, f"the header is one column, {header[0]!r}", fix)
    return header


def _value(header: list[str], record: list[str], delimiter: str, line: int, bad_row: OnBadRow) -> dict[str, str] | None:
    """The record by column; None for one that cannot be used, which is reported."""
    for name, field in zip(header, record, strict=False):
        if _BEHIND_SPACE.match(field):
            bad_row(line, f"in {name} a quote stands behind a space", _unspaced(delimiter), name)
            return None
    fields = record[: len(header)] + [""] * (len(header) - len(record))
    # Empty fields at the end, without a name, are nothing: spreadsheets write them for a column that was once used.
    if any(record[len(header) :]) or any(header[len(record) :]):
        bad_row(
            line, f"has {len(record)} fields, the header {len(header)}", f"quote fields that hold a {_named(delimiter)}"
        )
        return None
    for at, (name, field) in enumerate(zip(header, fields, strict=True)):
        # A first column of numbers without a name is the index that pandas writes.
        if not name and field.strip() and not (at == 0 and field.strip().isdigit()):
            what = f"has {describe_value(field)} in column {at + 1}, which the header does not name"
            bad_row(line, what, "name the column in the header")
            return None
    return {name: field for name, field in zip(header, fields, strict=True) if name}


def _named(delimiter: str) -> str:
    return NAMES.get(delimiter, repr(delimiter))


def _unspaced(delimiter: str) -> str:
    return f"write the quote right behind the {_named(delimiter)}: otherwise it is read as a part of the text"
