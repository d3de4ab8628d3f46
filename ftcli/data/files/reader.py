"""Rows from files, one at a time, each with its line.

No library loads the rows here, because a fault must be reported with its file and line to be fixed. Memory holds only
one row and a read buffer (parquet, arrow: one batch), so a file may be larger than memory.

What is a row:
    .json              each object of the one array in the file; its line is the one it starts on, and its place has
                       its index too, since the whole array may be one line
    .jsonl .ndjson     each line that is not blank, an object
    .csv .tsv          each record under the header, all values text; its line is the one it starts on; the delimiter
                       is recognised, or named by `DataFile.delimiter`
    .txt               each line that is not blank, as {"text": line}
    .parquet           each row; its `line` is the row's number, from 1
    .arrow .feather    the same
    any of these with .gz, .bz2, .xz or .zst appended, decompressed while reading (parquet and arrow in memory)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.data.files.arrow_reader import read_arrow, read_parquet
from ftcli.data.files.compression import DAMAGED, opened
from ftcli.data.files.delimited import read_delimited
from ftcli.data.files.file_types import DataFile, codec_of, kind_of
from ftcli.data.files.json_reader import (
    LONG_ROW_FIX,
    MAX_ROW_VALUES,
    Broken,
    Numbered,
    OnBadRow,
    RowDecoder,
    has_many_values,
    is_plain,
    not_utf8,
    read_array,
    text_lines,
    usable,
)
from ftcli.data.files.locate import names_near, require_file
from ftcli.data.files.urls import Unreachable

OnFault = Callable[[Problem], None]

_PLACE = re.compile(r":(\d+)(?:\[(\d+)\])?\Z")


class Row(NamedTuple):
    """One row as written in its file; `line` counts from 1."""

    file: str
    line: int
    value: dict[str, Any]
    number: int = 0
    """Running number in the file, from 0, unusable rows counted. It identifies the row: several may share a line."""
    in_array: bool = False
    """Whether the row is an element of a JSON array, whose index is then part of its place."""
    plain: bool = False
    """Whether it is known that all its text is ASCII without control characters and double braces."""

    @property
    def where(self) -> str:
        """The row's place, as errors print it."""
        if self.in_array:
            return place_text(self.file, self.line, self.number, in_array=True)
        return f"{self.file}:{self.line}"


def place_text(file: str, line: int, number: int, in_array: bool) -> str:
    """A row's place as errors print it: file:line, and for an element of a JSON array file:line[index]."""
    return f"{file}:{line}[{number}]" if in_array else f"{file}:{line}"


def line_of(place: str) -> int:
    """The line in a place as `place_text` writes it."""
    found = _PLACE.search(place)
    assert found is not None, place
    return int(found[1])


def index_of(place: str) -> int | None:
    """The index in a place, from 0; None where the row is no element of a JSON array."""
    found = _PLACE.search(place)
    return int(found[2]) if found is not None and found[2] is not None else None


def read_rows(path: Path | DataFile, on_fault: OnFault | None = None) -> Iterator[Row]:
    """Every row of the file, in order, read lazily.

    Args:
        path: a file that `resolve_file` accepted, or one that `locate` found.
        on_fault: called for each unusable row, which is then skipped; without it the first one raises.

    Raises:
        ConfigError: the package that reads the file is missing, or the file no longer exists.
        DataError: a row is unusable (unless `on_fault` takes it), or the file has no row or cannot be read further than
            some line, which `on_fault` cannot take: the rest could not even be counted.
    """
    file = path if isinstance(path, DataFile) else DataFile(str(path), str(path))
    name = file.name
    read = _reader(file)
    in_array = read is read_array
    number = 0

    def bad_row(line: int, what: str, fix: str, field: str = "") -> None:
        nonlocal number
        problem = RowProblem(place_text(name, line, number, in_array), what, fix, field=field)
        if on_fault is None:
            raise DataError(problem)
        number += 1
        on_fault(problem)

    try:
        with opened(file) as handle:
            for line, value, plain in read(handle, bad_row):
                yield Row(name, line, value, number, in_array, plain)
                number += 1
    except Broken as fault:
        raise DataError(Problem(f"{name}:{fault.line}", fault.what, fault.fix)) from None
    except (OSError, *DAMAGED) as fault:
        raise DataError(_unread(file, fault)) from None
    if not number:
        raise DataError(Problem(name, "has no rows", "use a file with at least one row"))


def _unread(file: DataFile, fault: Exception) -> Problem:
    """The problem that the bytes of a file cannot be read."""
    if isinstance(fault, Unreachable):
        return Problem(
            file.name, f"cannot be read further: {fault}", "try again, or download it and use the local file"
        )
    # The codecs raise OSError too, but only errors of the disk have a number.
    if codec_of(file.path) and not getattr(fault, "errno", None):
        return Problem(file.name, f"is damaged: {fault}", "compress or download it again")
    why = getattr(fault, "strerror", None) or fault
    return Problem(file.name, f"cannot be read: {why}", "check the file and the disk")


def peek_rows(path: Path | DataFile, n: int = 1) -> list[Row]:
    """The first `n` rows, or all when there are fewer; reads only the beginning (of parquet also the footer).

    Raises:
        ConfigError: as `read_rows`.
        DataError: one of them is unusable, or there is none.
    """
    return list(islice(read_rows(path), n))


def resolve_file(path: Path, where: str) -> Path:
    """`path`, checked to be a file that `read_rows` can read; no row is read.

    Args:
        path: taken literally.
        where: the override or file:line that named it, for the error.

    Raises:
        ConfigError: it does not exist (with the nearest names that do), is a folder, is not readable, or is not of a
            supported type.
    """
    if os.path.isdir(path):
        raise ConfigError(Problem(where, f"{path} is a folder, not a file", names_near(str(path / path.name))))
    require_file(str(path), where)
    return path


# --- one function per file type -------------------------------------------------------------------------------------


def _read_jsonl(handle: IO[bytes], bad_row: OnBadRow) -> Numbered:
    decoder = RowDecoder()
    for number, raw in text_lines(handle):
        if number == 1 and raw.lstrip().startswith(b"["):  # no row is a list, so nothing after it is one either
            raise Broken(1, "is a JSON array, not one object per line", "rename the file to .json")
        if has_many_values(raw):
            bad_row(number, f"has a row of more than {MAX_ROW_VALUES} values", LONG_ROW_FIX)
            continue
        try:
            value = decoder.line(raw.decode())
        except UnicodeDecodeError as fault:
            not_utf8(bad_row, number, fault)
        except json.JSONDecodeError as fault:
            if raw.strip():
                fix = "write one whole object per line, with double quotes"
                if number == 1 and raw.strip() == b"{":
                    fix = "this looks like an object over several lines: write each row on one line"
                bad_row(number, f"is not JSON: {fault.msg} at column {fault.pos + 1}", fix)
        except (ValueError, RecursionError) as fault:
            bad_row(number, f"is not usable JSON: {fault}", "rewrite the row")
        else:
            if usable(bad_row, number, value, decoder.twice, b"\\u" in raw and (b"\\ud" in raw or b"\\uD" in raw)):
                yield number, value, is_plain(raw)


def _read_txt(handle: IO[bytes], bad_row: OnBadRow) -> Numbered:
    for number, raw in text_lines(handle):
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as fault:
            not_utf8(bad_row, number, fault)
        else:
            if text.strip():
                yield number, {"text": text}, False


_READERS: dict[str, Callable[[IO[bytes], OnBadRow], Numbered]] = {
    "json": read_array,
    "jsonl": _read_jsonl,
    "txt": _read_txt,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
"""The file types with a delimiter, and the usual one of each."""


def _reader(file: DataFile) -> Callable[[IO[bytes], OnBadRow], Numbered]:
    kind = kind_of(file.path) or ""
    if kind in _DELIMITERS:
        return lambda handle, bad_row: read_delimited(handle, bad_row, _DELIMITERS[kind], file.delimiter)
    return _READERS[kind]
