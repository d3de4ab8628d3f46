"""Tokens of a set on disk, made once and memory-mapped ever after: `ftcli data prepare` fills it ahead of a run.

An entry's key is everything that its content depends on: the bytes of the data files, of the tokenizer and of the chat
template, how rows are read and mapped, and the code and library versions that make tokens of them. So a changed
argument never meets an old entry. Several processes that want the same entry wait for the one that makes it, and an
entry appears whole, by a rename, or not at all. Losing the store loses nothing but time.
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
from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.locate import DataFile
from ftcli.runs import rundir

_ROWS, _INDEX, _META = "rows.arrow", "index.arrow", "meta.json"
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "trl", "pyarrow")
CODE = ("data", "worker")
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Entry:
    """One set of rows in the store: a table that stays on disk until it is looked at, and what is known of it."""

    key: str
    place: Path
    meta: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self.meta["rows"])

    def table(self) -> MemoryMappedTable:
        """The rows, on disk until they are looked at; mapped anew by each call, so that what was seen can be let go."""
        return MemoryMappedTable.from_file(str(self.place / _ROWS))

    def index(self) -> pa.Table:
        """What was noted of each row, in memory. Apart from the rows, so that looking at it loads none of them."""
        with pa.OSFile(str(self.place / _INDEX)) as source, pa.ipc.open_file(source) as reader:
            return reader.read_all()


Write = Callable[[pa.RecordBatch], None]
Build = Callable[[Write], tuple[dict[str, Any], pa.Table]]
"""Writes its batches with the function that it is given, and returns the entry's meta and index."""


@cache
def folder() -> Path:
    """Where entries are kept: XDG_CACHE_HOME/ftcli/prepared or ~/.cache/ftcli/prepared; a temporary one if need be."""
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ftcli" / "prepared"
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
    """The entry of that key, made by `build` where it is not there yet.

    Raises:
        ConfigError: it cannot be written.
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
        fix = "make room, set XDG_CACHE_HOME to another disk, or store nothing with data.streaming=true"
        raise ConfigError(Problem(str(place.parent), what, fix)) from None


def _opened(key: str, place: Path) -> Entry | None:
    try:
        meta = json.loads((place / _META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # somebody else's, in a folder that is shared
        os.utime(place)  # so that what was not used for long can be told
    return Entry(key, place, meta)


def _made(key: str, place: Path, build: Build) -> Entry:
    for left in place.parent.glob(f".{key}.*"):  # of a process that was killed: its lock is ours now
        shutil.rmtree(left, ignore_errors=True)
    staging = place.with_name(f".{key}.{os.getpid()}")
    staging.mkdir()
    try:
        rows = 0
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(pa.OSFile(str(staging / _ROWS), "wb"))
            writer: Any = None

            def write(batch: pa.RecordBatch) -> None:
                nonlocal writer, rows
                if writer is None:
                    writer = stack.enter_context(pa.ipc.new_stream(sink, batch.schema))
                writer.write_batch(batch)
                rows += batch.num_rows

            meta, index = build(write)
        with pa.OSFile(str(staging / _INDEX), "wb") as sink, pa.ipc.new_file(sink, index.schema) as indexed:
            indexed.write_table(index)
        rundir.write_json(staging / _META, {**meta, "rows": rows})
        with contextlib.suppress(FileExistsError):  # two made it where there are no locks
            os.rename(staging, place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    found = _opened(key, place)
    assert found is not None
    return found


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time; the kernel takes the lock back from one that dies."""
    file = place.with_name(f".{place.name}.lock")
    file.touch()  # apart from the lock: a folder that cannot be written is an error
    with contextlib.ExitStack() as stack:
        # A file system without locks: two may make the same, and one of the renames wins.
        with contextlib.suppress(OSError):
            stack.enter_context(FileLock(file, poll_interval=_POLL_SECONDS, fallback_to_soft=False))
        yield
