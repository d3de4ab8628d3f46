"""The store of prepared tokens: built once for the same arguments, anew for every changed one, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from ftcli import tiny
from ftcli.core.code_digest import code_files
from ftcli.core.errors import DataError, DiskError, Problem
from ftcli.data.row_sets import RowSet
from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings, SetSettings
from ftcli.worker.tokenise import store, token_sets
from ftcli.worker.tokenise.encoder import Encoder
from tests.conftest import REPOSITORY
from tests.worker.conftest import conversation, write_rows

SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32())})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A store of its own for one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.folder.cache_clear()
    yield tmp_path / "cache" / "ftcli" / "prepared"
    store.folder.cache_clear()


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """The names of the sets that were made rather than found."""
    made: list[str] = []
    real = token_sets.TokenSetBuild.build

    def build(self: Any, write: store.Write) -> Any:
        made.append(self.row_set.name)
        return real(self, write)

    monkeypatch.setattr(token_sets.TokenSetBuild, "build", build)
    return made


def rows(path: Path, num_rows: int = 6) -> Path:
    return write_rows(
        path, [{**conversation(i), "user": i % 2, "more": [], "text": f"word {i}"} for i in range(num_rows)]
    )


class Asked:
    """One set under one method and tokenizer, each of which a test changes alone."""

    def __init__(self, path: Path) -> None:
        self.settings, self.data = SetSettings(path=str(path)), DataSettings(path=str(path))
        self.method, self.max_rows, self.encoder = "sft", None, Encoder(AutoTokenizer.from_pretrained(tiny.MODEL_DIR))

    def tokens(self) -> token_sets.TokenSet:
        row_set = RowSet(name="data", key="data.path", settings=self.settings)
        return token_sets.token_set(row_set, self.data, get_method(self.method), self.encoder, self.max_rows)


def changed_format(asked: Asked) -> None:
    asked.settings = replace(asked.settings, format="text")


def changed_columns(asked: Asked) -> None:
    asked.settings = replace(asked.settings, columns={"messages": "messages", "tools": "more"})


def changed_roles(asked: Asked) -> None:
    asked.settings = replace(asked.settings, roles={"customer": "user"})


def changed_group(asked: Asked) -> None:
    asked.data = replace(asked.data, eval_group="user")


def changed_max_rows(asked: Asked) -> None:
    asked.max_rows = 3


def changed_method(asked: Asked) -> None:
    asked.method = "instruct"


def changed_template(asked: Asked) -> None:
    asked.encoder.tokenizer.chat_template += "\n{#- the same, and another #}"


def changed_tokenizer(asked: Asked) -> None:
    asked.encoder = Encoder(asked.encoder.tokenizer)
    asked.encoder.tokenizer.add_tokens(["zzz"])


def changed_end_tokens(asked: Asked) -> None:
    asked.encoder = Encoder(asked.encoder.tokenizer, stop_ids=[5])


def changed_bytes(asked: Asked) -> None:
    path = Path(asked.settings.path)
    before, content = path.stat(), path.read_text(encoding="utf-8")
    path.write_text(content.replace("word 5", "word 7"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES = [value for name, value in sorted(globals().items()) if name.startswith("changed_")]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_argument_never_meets_an_old_entry(cache, builds, tmp_path, change):
    asked = Asked(rows(tmp_path / "rows.jsonl"))
    first = asked.tokens().entry.key
    assert (asked.tokens().entry.key, builds) == (first, ["data"])
    change(asked)
    assert asked.tokens().entry.key != first
    assert builds == ["data", "data"]


def test_the_same_arguments_find_the_same_entry_whatever_does_not_matter(cache, builds, tmp_path):
    asked = Asked(rows(tmp_path / "rows.jsonl"))
    asked.tokens()
    # What becomes of rows later, and a new tokenizer of the same bytes, change nothing about their tokens.
    asked.data = replace(asked.data, max_length_tokens=8, overflow="error", eval_share=0.5, max_bad_share=1.0)
    asked.encoder = Encoder(AutoTokenizer.from_pretrained(tiny.MODEL_DIR))
    found = asked.tokens()
    assert (builds, len(found)) == (["data"], 6)
    assert found.where(4) == f"{asked.settings.path}:5"


def test_what_is_read_on_one_day_is_what_was_made_on_the_other(cache, tmp_path):
    asked = Asked(rows(tmp_path / "rows.jsonl"))
    made, found = asked.tokens(), asked.tokens()
    assert made.entry.table().to_pylist() == found.entry.table().to_pylist()
    assert made.ledger == found.ledger
    assert all((getattr(made, name) == getattr(found, name)).all() for name in ("length", "trained", "digest", "line"))


def test_code_that_changed_makes_another_key(monkeypatch):
    before = store.key_of("x")
    assert store.key_of("x") == before
    monkeypatch.setattr(store, "code_digest", lambda *parts: "another")
    assert store.key_of("x") != before


def test_a_build_that_finds_fault_stores_nothing(cache):
    def build(write: store.Write) -> Any:
        write(pa.record_batch([[[1]]], schema=SCHEMA))
        raise DataError(Problem("rows.jsonl:1", "is no row"))

    with pytest.raises(DataError):
        store.entry("k" * 40, build)
    assert not list(cache.glob("k*"))
    assert not list(cache.glob(".k*.[0-9]*"))


def test_an_entry_is_opened_without_its_rows_being_read(cache):
    batch = pa.record_batch([[list(range(1000))] * 1000], schema=SCHEMA)  # 4 MB

    def build(write: store.Write) -> Any:
        for _ in range(40):
            write(batch)
        return {}, pa.table({})

    store.entry("k" * 40, build)
    before = pa.total_allocated_bytes()
    found = store.entry("k" * 40, build)
    table = found.table()
    assert (found.num_rows, table.num_rows) == (40_000, 40_000)
    assert (cache / ("k" * 40) / "rows.arrow").stat().st_size > 160_000_000
    assert table.fast_slice(39_999, 1).to_pylist()[0]["input_ids"][-1] == 999
    assert pa.total_allocated_bytes() - before < 5_000_000


def test_a_folder_that_cannot_be_written_gives_way_to_a_passing_one(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store.folder.cache_clear()
    try:
        asked = Asked(rows(tmp_path / "rows.jsonl"))
        assert len(asked.tokens()) == 6
        assert store.folder().name.startswith("ftcli-prepared-")
    finally:
        store.folder.cache_clear()


def test_a_disk_that_takes_no_more_is_told_with_a_remedy(cache):
    def build(write: store.Write) -> Any:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"No space left on device\n.*XDG_CACHE_HOME"):
        store.entry("k" * 40, build)


# --- several processes ------------------------------------------------------------------------------------------------

PROCESS = """
import sys, time
import pyarrow as pa
from ftcli.worker.tokenise import store

def build(write):
    open(sys.argv[1], "a").write("built ")
    write(pa.record_batch([[[1, 2, 3]]], schema=pa.schema({"input_ids": pa.list_(pa.int32())})))
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return {"mine": sys.argv[3]}, pa.table({"a": [1]})

print("asking", flush=True)
found = store.entry("k" * 40, build)
print(found.meta["mine"], found.table().to_pylist(), found.index().to_pylist(), flush=True)
"""


def start(tmp_path: Path, seconds: float, name: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-c", PROCESS, str(tmp_path / "log"), str(seconds), name]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_want_one_entry_build_it_once(tmp_path):
    both = [start(tmp_path, 1.5, name) for name in "ab"]
    answers = [process.communicate(timeout=600)[0].splitlines()[-1] for process in both]
    assert answers[0] == answers[1]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "built "


def test_a_build_that_is_killed_leaves_nothing_that_a_later_one_trips_over(tmp_path):
    first = start(tmp_path, 3600, "killed")
    assert first.stdout is not None
    assert [first.stdout.readline() for _ in range(2)] == ["asking\n", "building\n"]
    waiting = start(tmp_path, 0, "heir")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "asking\n"
    time.sleep(0.2)  # so that it meets the lock; were it later, all below would hold as well
    folder = tmp_path / "cache" / "ftcli" / "prepared"
    assert [path.name for path in folder.glob(f".{'k' * 40}.[0-9]*")] == [f".{'k' * 40}.{first.pid}"]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert waiting.communicate(timeout=600)[0].splitlines()[-1] == "heir [{'input_ids': [1, 2, 3]}] [{'a': 1}]"
    assert not list(folder.glob(f".{'k' * 40}.[0-9]*"))
    assert json.loads((folder / ("k" * 40) / "meta.json").read_text(encoding="utf-8")) == {"mine": "heir", "rows": 1}


def test_the_key_covers_every_module_that_reads_or_tokenises_rows():
    covered = {path.relative_to(REPOSITORY / "ftcli").as_posix() for path in code_files(*store.CODE)}
    assert {
        "worker/tokenise/serving_parity.py",
        "data/scan.py",
        "data/formats/registry.py",
        "data/files/reader.py",
    } <= covered
    assert {f"worker/tokenise/{path.name}" for path in (REPOSITORY / "ftcli/worker/tokenise").glob("*.py")} <= covered
