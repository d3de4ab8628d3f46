"""Rows from parquet and Arrow files, in small batches whatever the size of the file's own row groups.

Both formats are columnar: a row has a number instead of a line. pyarrow trusts what it reads, so each batch is
validated before a value is taken from it: text that is not UTF-8 costs its row, invalid offsets end the file.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import IO, Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files.json_reader import NOT_UTF8_FIX, Broken, Numbered, OnBadRow
from ftcli.data.files.urls import Unreachable

_BATCH_ROWS = 256
_BATCH_BYTES = 16 << 20
# A column of a row group is read in windows of this size, not all at once.
_WINDOW_BYTES = 1 << 20
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_REMEDY = "write or download it again"


def _pyarrow(name: str, kind: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(Problem("", f"reading {kind} needs pyarrow", "pip install pyarrow")) from None


def read_parquet(handle: IO[bytes], bad_row: OnBadRow) -> Numbered:
    """Number and value of each row.

    Raises:
        Broken: the file cannot be read further.
    """
    parquet = _pyarrow("pyarrow.parquet", ".parquet")

    def batches() -> Iterator[Any]:
        file = parquet.ParquetFile(_seekable(handle), pre_buffer=False, buffer_size=_WINDOW_BYTES)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        row_bytes = max((group.total_byte_size // group.num_rows for group in groups if group.num_rows), default=1)
        size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))
        # measured: 1 GB in one row group, 66 MiB more resident than before; with threads 135 MiB, and no faster
        yield from file.iter_batches(batch_size=size, use_threads=False)

    return _rows(batches(), bad_row, "parquet")


def read_arrow(handle: IO[bytes], bad_row: OnBadRow) -> Numbered:
    """Number and value of each row of an Arrow IPC file (also called Feather 2) or stream.

    Raises:
        Broken: the file cannot be read further, or its end is missing.
    """
    arrow = _pyarrow("pyarrow", ".arrow")
    source = _seekable(handle)
    if isinstance(handle, io.BufferedReader) and isinstance(handle.raw, io.FileIO) and handle.seek(0, io.SEEK_END):
        # Memory-mapped, since unlike parquet its batches can only be read whole: the system can drop the pages again.
        source = arrow.memory_map(handle.name)

    def batches() -> Iterator[Any]:
        source.seek(0)
        start = source.read(8)
        if start.startswith(_FEATHER_1_MAGIC):
            raise Broken(1, "is in the Feather V1 format", "write it again with a current pyarrow")
        source.seek(0)
        if start.startswith(_FILE_MAGIC):
            file = arrow.ipc.open_file(source)
            batches_of_file = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            _require_end(source)
            batches_of_file = iter(arrow.ipc.open_stream(source))
        for batch in batches_of_file:
            size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
            for first in range(0, batch.num_rows, size):
                yield batch.slice(first, size)

    return _rows(batches(), bad_row, "arrow")


def _seekable(handle: IO[bytes]) -> Any:
    # The footer is at the end, so a stream that cannot seek is read into memory.
    return handle if handle.seekable() else importlib.import_module("pyarrow").BufferReader(handle.read())


def _require_end(source: Any) -> None:
    """Check the end-of-stream mark: without it, a stream truncated between two batches would read like a whole one."""
    size = source.seek(0, io.SEEK_END)
    source.seek(max(0, size - len(_END_OF_STREAM)))
    end = source.read(len(_END_OF_STREAM))
    source.seek(0)
    old = source.read(4) != _END_OF_STREAM[:4]  # before Arrow 0.15 the mark was half as long
    source.seek(0)
    if size and not (end.endswith(_END_OF_STREAM[4:]) if old else end == _END_OF_STREAM):
        raise Broken(1, "is not an Arrow file, or was not written to its end: the end mark is missing", _REMEDY)


def _rows(batches: Iterator[Any], bad_row: OnBadRow, kind: str) -> Numbered:
    arrow = importlib.import_module("pyarrow")
    number = 0
    try:
        for batch in batches:
            names = batch.schema.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise Broken(1, f"has two columns named {', '.join(map(repr, twice))}", "give each column its own name")
            values, bad = _values(arrow, batch)
            for at, value in enumerate(values):
                number += 1
                if at in bad:
                    bad_row(number, f"{', '.join(map(repr, bad[at]))} is not UTF-8", NOT_UTF8_FIX, ", ".join(bad[at]))
                else:
                    yield number, value
    except Unreachable:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as fault:
        raise Broken(number + 1, f"is not readable {kind}: {fault}", _REMEDY) from None


def _values(arrow: Any, batch: Any) -> tuple[list[Any], dict[int, list[str]]]:
    """The rows of a batch, and by index the fields of those rows whose text is not UTF-8."""
    try:
        batch.validate(full=True)
        return batch.to_pylist(), {}
    except arrow.ArrowInvalid:
        pass
    bad: dict[int, list[str]] = {}
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
            columns[name] = column.to_pylist()
        except arrow.ArrowInvalid as fault:
            if "UTF8" not in str(fault):
                raise
            columns[name] = [None] * len(column)
            for at in range(len(column)):
                try:
                    columns[name][at] = column[at].as_py()
                except UnicodeDecodeError:
                    bad.setdefault(at, []).append(name)
    return [{name: values[at] for name, values in columns.items()} for at in range(batch.num_rows)], bad
