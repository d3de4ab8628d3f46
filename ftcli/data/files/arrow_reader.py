"""Rows from parquet and Arrow files, in small batches whatever the size of the file's own row groups.

Both formats are columnar: a row has a number instead of a line. pyarrow trusts what it reads, so each batch is
validated before a value is taken from it: text that is not UTF-8 costs its row, invalid offsets end the file. Values
are those that a JSON file of the same rows would hold, so that the tokens are the same.
"""

from __future__ import annotations

import importlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files.json_reader import NOT_UTF8_FIX, Broken, Numbered, OnBadRow
from ftcli.data.files.urls import Unreachable

_BATCH_ROWS = 256
_BATCH_BYTES = 16 << 20
# A column of a row group is read in windows of this size, not all at once.
_WINDOW_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 256 << 20
"""Of a parquet or Arrow file inside a compressed one; as a file of its own it may be of any size."""
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""The columns in which pandas stores an index of rows that has no name."""
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
    if handle.seekable():
        return handle
    # The footer is at the end, so a stream that cannot seek is read into memory.
    content = handle.read(MAX_UNPACKED_BYTES + 1)
    if len(content) > MAX_UNPACKED_BYTES:
        raise Broken(1, f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB, which are held in memory", "unpack it")
    return importlib.import_module("pyarrow").BufferReader(content)


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
            if twice := sorted(name for name, times in Counter(names).items() if times > 1):
                raise Broken(1, f"has two columns named {', '.join(map(repr, twice))}", "give each column its own name")
            bad: dict[int, list[str]] = {}
            columns = {
                name: _column(arrow, name, column, bad)
                for name, column in zip(names, batch.columns, strict=True)
                if not _PANDAS_INDEX.fullmatch(name)
            }
            for at in range(batch.num_rows):
                number += 1
                if at in bad:
                    bad_row(number, f"{', '.join(map(repr, bad[at]))} is not UTF-8", NOT_UTF8_FIX, ", ".join(bad[at]))
                    continue
                row = {name: values[at] for name, values in columns.items()}
                if repeated := [(name, value) for name, value in row.items() if isinstance(value, _Repeated)]:
                    name, value = repeated[0]
                    bad_row(number, f"{name} has the key {value.key!r} twice in a map", "keep one of them", name)
                else:
                    yield number, row, False
    except Unreachable:
        raise
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as fault:
        raise Broken(number + 1, f"is not readable {kind}: {fault}", _REMEDY) from None


def _column(arrow: Any, name: str, column: Any, bad: dict[int, list[str]]) -> list[Any]:
    """The values of a column, as JSON would hold them; rows whose text is not UTF-8 get the column's name in `bad`.

    Raises:
        Broken: Python has no value for some of them.
    """
    try:
        column.validate(full=True)
        try:
            values = column.to_pylist()
        except (ValueError, OverflowError) as fault:  # a time zone or a year that Python does not know
            what = f"column {name!r}, of type {column.type}, has a value that cannot be read: {fault}"
            raise Broken(1, what, "write the column as text, or leave it out") from None
    except arrow.ArrowInvalid as fault:
        if "UTF8" not in str(fault):
            raise
        values = [None] * len(column)
        for at in range(len(column)):
            try:
                values[at] = column[at].as_py()
            except UnicodeDecodeError:
                bad.setdefault(at, []).append(name)
    plain = _plainer(arrow, column.type)
    return values if plain is None else [value if value is None else plain(value) for value in values]


# --- values as JSON would hold them ---------------------------------------------------------------------------------


class _Repeated:
    """In place of a map that has a key twice."""

    def __init__(self, key: Any) -> None:
        self.key = key


def _plainer(arrow: Any, kind: Any) -> Callable[[Any], Any] | None:
    """What makes a value of that type, as pyarrow gives it, the one that JSON would hold; None if it is so already.

    Every struct of a column has the fields of all of them, so a field that a row does not have is null. Such a field is
    left out: a template would write it. A null that was meant cannot be told from it.
    """
    types = arrow.types
    if isinstance(kind, arrow.BaseExtensionType):
        return _plainer(arrow, kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plainer(arrow, kind.value_type)
    if types.is_struct(kind):
        return _plain_struct({kind.field(i).name: _plainer(arrow, kind.field(i).type) for i in range(kind.num_fields)})
    if types.is_map(kind):
        return _plain_map(_plainer(arrow, kind.key_type), _plainer(arrow, kind.item_type))
    if any(is_list(kind) for is_list in _lists(types)):
        return _plain_list(_plainer(arrow, kind.value_type))
    if any(is_binary(kind) for is_binary in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return _text
    return None


def _lists(types: Any) -> tuple[Callable[[Any], bool], ...]:
    return types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view


def _plain_struct(fields: dict[str, Callable[[Any], Any] | None]) -> Callable[[Any], Any]:
    def plain(value: dict[str, Any]) -> Any:
        found = {}
        for name, entry in value.items():
            if entry is not None:
                convert = fields[name]
                found[name] = entry if convert is None else convert(entry)
                if isinstance(found[name], _Repeated):
                    return found[name]
        return found

    return plain


def _plain_list(convert: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if convert is None:
        return None

    def plain(value: list[Any]) -> Any:
        found = [entry if entry is None else convert(entry) for entry in value]
        return next((entry for entry in found if isinstance(entry, _Repeated)), found)

    return plain


def _plain_map(key: Callable[[Any], Any] | None, item: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def plain(value: list[tuple[Any, Any]]) -> Any:
        found: dict[Any, Any] = {}
        for name, entry in value:
            name = key(name) if key else name
            if name in found:
                return _Repeated(name)
            found[name] = item(entry) if item and entry is not None else entry
            if isinstance(found[name], _Repeated):
                return found[name]
        return found

    return plain


def _text(value: Any) -> Any:
    """Bytes as the text that they are in UTF-8; other bytes, such as those of an image, unchanged."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value
