"""The token store: tokenised sets on disk, created once, then memory-mapped. `ftcli data prepare` fills it in advance.

An entry's key covers everything that its content depends on: the bytes of the data files, of the tokenizer and of the
chat template, how rows are read and mapped, and the versions of the tokenising code and libraries. So a changed setting
never reuses an old entry. Several processes that need the same entry wait for the one that creates it, and an entry
appears whole, by a rename, or not at all. Losing the store costs nothing but time.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets.table import MemoryMappedTable
from filelock import FileLock

from ftcli.core.code_digest import code_digest
from ftcli.core.errors import DISK_ERRNOS, ConfigError, DiskError, Problem
from ftcli.core.paths import cache_folder
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.locate import DataFile
from ftcli.runs import rundir

_ROWS, _INDEX, _META, _DROPPED = "rows.arrow", "index.arrow", "meta.json", "dropped.jsonl"
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "trl", "pyarrow")
CODE = ("data", "models/templates", "worker/tokenise")
"""Our modules that read, convert and tokenise rows: a change in any of them makes stored tokens obsolete."""
_POLL_SECONDS = 0.1
OPTIONAL = {
    "weights": pa.list_(pa.float32()),
    "row_weight": pa.float32(),
    "chosen_probability": pa.float32(),
    "examples": pa.list_(pa.int32()),
}
"""The columns that are only there if a row has one, and else null: what tokens, or rows, weigh in the loss, which is
else 1; the probability that a pair's chosen answer is the better one; and the lengths of the training examples of an
unrolled conversation."""


@dataclass(frozen=True)
class Entry:
    """One set of rows in the store: a table that is read from disk on access, and its metadata."""

    key: str
    place: Path
    meta: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self.meta["rows"])

    @property
    def dropped(self) -> Path:
        """The unusable rows, a JSON line for each; there is no such file where there are none."""
        return self.place / _DROPPED

    def table(self) -> MemoryMappedTable:
        """The rows, read from disk on access. Each call maps them again, so that pages already read can be released."""
        return MemoryMappedTable.from_file(str(self.place / _ROWS))

    def index(self) -> pa.Table:
        """The index of the rows, in memory. It is a separate file, so that reading it loads no row."""
        with pa.OSFile(str(self.place / _INDEX)) as source, pa.ipc.open_file(source) as reader:
            return reader.read_all()


class Write:
    """Writes an entry that is being made: its batches and, where there are any, its unusable rows."""

    def __init__(self, staging: Path, stack: contextlib.ExitStack) -> None:
        self._staging, self._stack, self.rows = staging, stack, 0
        self._table = stack.enter_context(contextlib.ExitStack())
        """What is open while the table of rows is written."""
        self._sink = self._table.enter_context(pa.OSFile(str(staging / _ROWS), "wb"))
        self._writer: Any = None
        self._schema: pa.Schema | None = None
        self._dropped: Any = None

    def __call__(self, batch: pa.RecordBatch) -> None:
        """Write rows; all batches have the schema of the first, but some may lack the optional columns."""
        if self._schema is None:
            self._begin(batch.schema)
        elif batch.schema != self._schema:
            missing = [field for field in batch.schema if field.name not in self._schema.names]
            if missing:
                self._widen(pa.schema([*self._schema, *missing]))
            batch = _widened(batch, self._schema)
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def _begin(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = self._table.enter_context(pa.ipc.new_stream(self._sink, schema))

    def _widen(self, schema: pa.Schema) -> None:
        """Write all rows again, with further columns that are null: the first weight of a set may come late."""
        self._table.close()
        path, narrow = self._staging / _ROWS, self._staging / f"narrow-{_ROWS}"
        path.rename(narrow)
        self._sink = self._table.enter_context(pa.OSFile(str(path), "wb"))
        self._begin(schema)
        with pa.memory_map(str(narrow)) as source, pa.ipc.open_stream(source) as rows:
            for batch in rows:
                self._writer.write_batch(_widened(batch, schema))
        narrow.unlink()

    def dropped(self, row: dict[str, Any]) -> None:
        """Write an unusable row."""
        if self._dropped is None:
            self._dropped = open(self._staging / _DROPPED, "w", encoding="utf-8")  # noqa: SIM115
            self._stack.callback(self._dropped.close)
        self._dropped.write(json.dumps(row, ensure_ascii=False) + "\n")


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with the columns of a wider schema, null where they have none."""
    columns = [
        batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.record_batch(columns, schema=schema)


Build = Callable[[Write], tuple[dict[str, Any], pa.Table]]
"""Writes its batches with the given function, and returns the entry's metadata and index."""


@cache
def folder() -> Path:
    """The folder of entries: XDG_CACHE_HOME/ftcli/prepared, ~/.cache/ftcli/prepared, or a temporary one."""
    wanted = cache_folder("prepared")
    with contextlib.suppress(OSError):
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK):
            return wanted
    passing = Path(tempfile.mkdtemp(prefix="ftcli-prepared-"))
    atexit.register(shutil.rmtree, passing, ignore_errors=True)
    return passing


def key_of(parts: Any, files: Sequence[DataFile] = ()) -> str:
    """The key of an entry that depends on `parts` (a JSON value), on the bytes of files, and on our own code."""
    content = [parts, [[file.name, fingerprint(file)] for file in files], code_digest(*CODE), _versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def entry(key: str, build: Build) -> Entry:
    """The entry of that key, created by `build` if it does not exist yet.

    Raises:
        ConfigError: it cannot be written.
        DiskError: the disk is full.
        FtcliError: as `build` does; nothing is stored then.
    """
    place = folder() / key
    found = _opened(key, place)
    if found is not None:
        return found
    try:
        with _locked(place):
            return _opened(key, place) or _made(key, place, build)
    except OSError as error:
        what = f"the prepared tokens cannot be written there: {error.strerror or error}"
        fix = "free some space, set XDG_CACHE_HOME to another disk, or store nothing with data.streaming=true"
        kind = DiskError if error.errno in DISK_ERRNOS else ConfigError
        raise kind(Problem(str(place.parent), what, fix)) from None


def _opened(key: str, place: Path) -> Entry | None:
    try:
        meta = json.loads((place / _META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # another user's entry, in a shared folder
        os.utime(place)  # so that entries unused for long can be recognised
    return Entry(key, place, meta)


def _made(key: str, place: Path, build: Build) -> Entry:
    for left in place.parent.glob(f".{key}.*"):  # left by a killed process: we hold the lock now
        shutil.rmtree(left, ignore_errors=True)
    staging = place.with_name(f".{key}.{os.getpid()}")
    staging.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            write = Write(staging, stack)
            meta, index = build(write)
        with pa.OSFile(str(staging / _INDEX), "wb") as sink, pa.ipc.new_file(sink, index.schema) as indexed:
            indexed.write_table(index)
        rundir.write_json(staging / _META, {**meta, "rows": write.rows})
        with contextlib.suppress(FileExistsError):  # without locks, another process may have created it too
            os.rename(staging, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    found = _opened(key, place)
    assert found is not None
    return found


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time; the kernel releases the lock of a process that dies."""
    file = place.with_name(f".{place.name}.lock")
    file.touch()  # outside the suppression below: a folder that cannot be written is an error
    with contextlib.ExitStack() as stack:
        # On a file system without locks, two processes may create the same entry, and one of the renames wins.
        with contextlib.suppress(OSError):
            stack.enter_context(FileLock(file, poll_interval=_POLL_SECONDS, fallback_to_soft=False))
        yield
