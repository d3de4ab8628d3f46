"""A small file that unpacks to rows of any size: each kind of file and of compression ends with the limit by name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ftcli.core.errors import DataError, Problem
from ftcli.data.files import delimited, json_reader
from ftcli.data.files.reader import read_rows

LONG = json_reader.MAX_ROW_BYTES + 1
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda raw: gzip.compress(raw, 1),
    ".bz2": lambda raw: bz2.compress(raw, 1),
    ".xz": lambda raw: lzma.compress(raw, preset=0),
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}
LIMIT = "has a row of more than 32 MiB"


def fault(file: Path) -> Problem:
    with pytest.raises(DataError) as caught:
        list(read_rows(file))
    [problem] = caught.value.problems
    return problem


@pytest.mark.parametrize("codec", PACKED)
def test_one_line_without_end_is_refused_in_every_compression(tmp_path: Path, codec: str) -> None:
    file = tmp_path / f"rows.jsonl{codec}"
    file.write_bytes(PACKED[codec](b'{"text": "a"}\n{"text": "' + b"x" * LONG))
    assert codec == "" or file.stat().st_size < 1 << 18  # which a naive reader makes 128 times as large
    assert (fault(file).where, fault(file).what) == (f"{file}:2", LIMIT)


@pytest.mark.parametrize(
    ("name", "start", "filling", "line"),
    [
        ("rows.txt", b"a\n", b"x", 2),
        ("rows.txt", b"a\r", b"x", 2),  # lines that end as on an old Mac
        ("rows.json", b'[{"text": "a"},\n{"text": "', b"x", 2),
        ("rows.csv", b"text\na\n", b"x", 3),
        ("rows.csv", b'text\na\n"', b"x" * 99 + b"\n", 3),  # a quote that joins all lines
        ("rows.csv", b'text,b\na,b\n"', b'\n","' + b"x" * 99, 3),  # in many fields
        ("rows.csv", b"", b"x", 1),
        ("rows.tsv", b"a\tb\n", b"x", 2),
    ],
)
def test_no_kind_of_text_holds_a_row_of_any_size(
    tmp_path: Path, name: str, start: bytes, filling: bytes, line: int
) -> None:
    file = tmp_path / f"{name}.gz"
    file.write_bytes(gzip.compress(start + filling * (LONG // len(filling) + 1), 1))
    found = fault(file)
    assert LIMIT in found.what or "larger than field limit" in found.what
    assert found.where == f"{file}:{line}"


def test_a_row_of_the_longest_book_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    book = "word " * (2 << 20)
    file.write_text(json.dumps({"text": book}) + "\n", encoding="utf-8")
    [row] = read_rows(file)
    assert row.value["text"] == book


def test_a_row_has_so_many_values_at_most(tmp_path: Path) -> None:
    lists = "[" + "[]," * json_reader.MAX_ROW_VALUES + "[]]"
    for name, text in (("rows.jsonl", f'{{"a": {lists}}}\n'), ("rows.json", f'[{{"a": {lists}}}]')):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        assert f"a row of more than {json_reader.MAX_ROW_VALUES} values" in fault(file).what


def test_a_key_twice_among_very_many_is_found_in_one_pass(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    keys = ", ".join(f'"k{number}": 0' for number in range(200_000))
    file.write_text(f'{{{keys}, "k199999": 1}}\n', encoding="utf-8")
    assert "the key 'k199999' twice" in fault(file).what


def test_a_header_has_so_many_columns_at_most(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(",".join(f"c{number}" for number in range(delimited.MAX_COLUMNS + 1)) + "\n", encoding="utf-8")
    assert f"more than {delimited.MAX_COLUMNS}" in fault(file).what


def test_what_is_unpacked_in_memory_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet.gz"
    with gzip.open(file, "wb", 1) as packed:
        for _ in range(257):
            packed.write(bytes(1 << 20))
    assert "unpacks to more than 256 MiB" in fault(file).what
    assert file.stat().st_size < 2 << 20
