"""Rows out of files, one at a time, each with the line it stands on.

A fault is told with file and line or it cannot be mended, which is why no library loads the rows here. Nothing holds
more than one row and a read buffer in memory (parquet: one batch), so a file may be larger than the machine.

What is a row:
    .json     each object of the one array that the file holds; its line is the one it starts on
    .jsonl    each line that is not blank, an object
    .csv      each record under the header, all values text; its line is the one it starts on
    .txt      each line that is not blank, as {"text": line}
    .parquet  each row; its `line` is the row's number, from 1
    any of these with .gz behind it, decompressed while reading
"""

from __future__ import annotations

import csv
import difflib
import gzip
import importlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from ftcli.data.json_array import NOT_UTF8_FIX, Broken, Numbered, Told, read_array, usable, without_mark
from ftcli.errors import ConfigError, DataError, Problem

OnFault = Callable[[Problem], None]

_DECODER = json.JSONDecoder()
_BUFFER_BYTES = 1 << 20


class Row(NamedTuple):
    """One row as it stands in its file; `line` counts from 1."""

    file: str
    line: int
    value: dict[str, Any]

    @property
    def where(self) -> str:
        """The row's place, as errors print it."""
        return f"{self.file}:{self.line}"


def read_rows(path: Path, on_fault: OnFault | None = None) -> Iterator[Row]:
    """Every row of the file, in order, read as they are asked for.

    Args:
        path: a file that `resolve_file` accepted.
        on_fault: told of each unusable row, which is then left out; without it the first one raises.

    Raises:
        DataError: an unusable row (unless `on_fault` takes it), or, in any case, a file that holds no row at all or
            cannot be read on from some line: what follows could not be counted.
    """
    name = str(path)
    empty = True

    def told(line: int, what: str, fix: str) -> None:
        problem = Problem(f"{name}:{line}", what, fix)
        if on_fault is None:
            raise DataError(problem)
        nonlocal empty
        empty = False
        on_fault(problem)

    try:
        with _opened(path) as handle:
            for line, value in _READERS[_suffix(path)](handle, told):
                empty = False
                yield Row(name, line, value)
    except Broken as fault:
        raise DataError(Problem(f"{name}:{fault.line}", fault.what, fault.fix)) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise DataError(Problem(name, f"is damaged: {fault}", "compress or download it again")) from None
    if empty:
        raise DataError(Problem(name, "holds no rows", "give a file with at least one row"))


def peek_rows(path: Path, n: int = 1) -> list[Row]:
    """The first `n` rows, or all when there are fewer; reads only the beginning (of parquet also the footer).

    Raises:
        DataError: one of them is unusable, or there is none.
    """
    return list(islice(read_rows(path), n))


def resolve_file(path: Path, where: str) -> Path:
    """`path`, once it is known to be a file that `read_rows` can read; no row is looked at.

    Args:
        path: taken literally.
        where: the override or file:line that named it, for the error.

    Raises:
        ConfigError: it is not there (with the nearest names that are), is a folder, may not be read, or is of no
            known kind.
    """
    known = ", ".join(_READERS)
    if os.path.isdir(path):
        raise ConfigError(Problem(where, f"{path} is a folder, not a file", _names_near(path / path.name)))
    if not os.path.exists(path):
        raise ConfigError(Problem(where, f"{path} does not exist", _names_near(path)))
    if _suffix(path) not in _READERS:
        raise ConfigError(
            Problem(where, f"{path} is of no kind that can be read", f"use one of {known}, each also with .gz")
        )
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise ConfigError(Problem(where, f"{path} may not be read", "check its permissions"))
    return path


def _suffix(path: Path) -> str:
    return os.path.splitext(path.name.lower().removesuffix(".gz"))[1]


def _names_near(path: Path) -> str:
    """What the folder of `path` holds instead, nearest name first."""
    folder = path.parent
    if not os.path.isdir(folder):
        return f"the folder {folder} does not exist either"
    try:
        # A folder can hold millions of names; the nearest of the first thousands are hint enough.
        names = [entry.name for entry in islice(os.scandir(folder), 10_000)]
    except OSError:
        return f"the folder {folder} cannot be listed"
    readable = sorted(name for name in names if _suffix(Path(name)) in _READERS)
    near = difflib.get_close_matches(path.name, readable, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(str(folder / name) for name in near)}?"
    if not readable:
        return f"{folder} holds no file that can be read"
    return f"{folder} holds {', '.join(readable[:8])}{', …' if len(readable) > 8 else ''}"


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        # GzipFile reads lines in Python; the buffer in front of it does so in C.
        return io.BufferedReader(gzip.open(path), _BUFFER_BYTES)
    return open(path, "rb")


def _lines(handle: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, their ends kept, without a byte order mark."""
    for number, raw in enumerate(handle, 1):
        if number == 1:
            raw = without_mark(raw)
        yield number, raw


def _not_utf8(told: Told, number: int, fault: UnicodeDecodeError) -> None:
    byte = fault.object[fault.start]
    told(number, f"is not UTF-8: byte 0x{byte:02x} at byte {fault.start + 1} of the line", NOT_UTF8_FIX)


# --- one function a kind of file ------------------------------------------------------------------------------------


def _read_jsonl(handle: IO[bytes], told: Told) -> Numbered:
    decode = _DECODER.decode
    for number, raw in _lines(handle):
        try:
            value = decode(raw.decode())
        except UnicodeDecodeError as fault:
            _not_utf8(told, number, fault)
        except json.JSONDecodeError as fault:
            if raw.strip():
                told(number, f"is not JSON: {fault.msg} at column {fault.pos + 1}", _jsonl_fix(number, raw))
        except (ValueError, RecursionError) as fault:
            told(number, f"is not usable JSON: {fault}", "write the row anew")
        else:
            if usable(told, number, value, b"\\u" in raw and (b"\\ud" in raw or b"\\uD" in raw)):
                yield number, value


def _jsonl_fix(number: int, raw: bytes) -> str:
    if number == 1 and raw.lstrip().startswith((b"[", b"{")) and len(raw.strip()) == 1:
        return "this looks like one array or object over several lines: an array of objects is read from a .json file"
    return "one whole object a line, in double quotes"


def _read_txt(handle: IO[bytes], told: Told) -> Numbered:
    for number, raw in _lines(handle):
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as fault:
            _not_utf8(told, number, fault)
        else:
            if text.strip():
                yield number, {"text": text}


def _read_csv(handle: IO[bytes], told: Told) -> Numbered:
    # The module's limit is 128 KiB a field, less than a long document, and can only be set for the whole process.
    csv.field_size_limit(2**31 - 1)
    bad: dict[int, UnicodeDecodeError] = {}

    def decoded() -> Iterator[str]:
        for number, raw in _lines(handle):
            try:
                yield raw.decode()
            except UnicodeDecodeError as fault:
                # Kept readable, so that only the record that holds the line is lost.
                bad[number] = fault
                yield raw.decode(errors="replace")

    # strict: otherwise a quote that is never closed swallows the rest of the file as one field.
    records = csv.reader(decoded(), strict=True)
    header: list[str] = []
    start = 1
    while True:
        start = records.line_num + 1
        try:
            record = next(records, None)
        except csv.Error as fault:
            fix = "double the quotes inside a quoted field and close each one"
            raise Broken(start, f"the record that starts here is not CSV: {fault}", fix) from None
        if record is None:
            return
        if bad:
            _not_utf8(told, *bad.popitem())
            bad.clear()
            if not header:
                raise Broken(start, "the header is not UTF-8", NOT_UTF8_FIX)
        elif not record:
            continue
        elif not header:
            header = _checked_header(start, record)
        elif len(record) != len(header):
            told(start, f"has {len(record)} fields, the header {len(header)}", "quote fields that hold a comma")
        else:
            yield start, dict(zip(header, record, strict=True))


def _checked_header(line: int, record: list[str]) -> list[str]:
    header = [name.strip() for name in record]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise Broken(line, f"the header names {', '.join(map(repr, twice))} twice", "give each column its own name")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise Broken(line, f"the header is one column, {header[0]!r}", "separate the columns by commas")
    return header


def _read_parquet(handle: IO[bytes], told: Told) -> Numbered:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(Problem("", "reading .parquet needs pyarrow", "pip install pyarrow")) from None
    # The footer stands last: a stream that cannot seek cheaply is decompressed whole.
    source = handle if isinstance(getattr(handle, "raw", None), io.FileIO) else pyarrow.BufferReader(handle.read())
    number = 0
    try:
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield number, value
    except (pyarrow.ArrowException, OSError) as fault:
        raise Broken(number + 1, f"is not readable parquet: {fault}", "write or download it again") from None


_READERS: dict[str, Callable[[IO[bytes], Told], Numbered]] = {
    ".json": read_array,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
