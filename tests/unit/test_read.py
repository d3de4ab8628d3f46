"""Rows come out of every kind of file with the line they stand on, and every fault is named by file and line."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from ftcli.data import json_array
from ftcli.data.read import Row, peek_rows, read_rows, resolve_file
from ftcli.errors import ConfigError, DataError, Problem


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def found(path: Path) -> list[tuple[int, dict]]:
    return [(row.line, row.value) for row in read_rows(path)]


def fault(path: Path) -> Problem:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert caught.value.exit_code == 3
    (problem,) = caught.value.problems
    assert problem.fix
    return problem


def test_a_row_knows_its_place(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "one"}\n')
    (row,) = read_rows(path)
    assert row == Row(str(path), 1, {"text": "one"})
    assert row.where == f"{path}:1"


# "two" stands on line 3 of each: blank lines count as lines and are no rows.
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}'),
        ("a.json", '[{"text": "one"},\n\n  {"text": "two"}\n]\n'),
        ("a.txt", "one\n\ntwo\n"),
    ],
)
def test_rows_come_with_the_line_they_start_on(tmp_path, name, content, suffix):
    assert found(write(tmp_path, name + suffix, content)) == [(1, {"text": "one"}), (3, {"text": "two"})]


def test_csv_rows_come_with_the_line_they_start_on_even_after_fields_of_several_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'text,n\r\n"one\nmore",1\n\n"say ""two""",2\n')
    assert found(path) == [(2, {"text": "one\nmore", "n": "1"}), (5, {"text": 'say "two"', "n": "2"})]


def test_parquet_rows_come_with_their_number(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [{"role": "user", "content": f"{i}"}], "label": i % 2 == 0} for i in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    assert found(tmp_path / "a.parquet") == list(enumerate(rows, 1))
    zipped = write(tmp_path, "b.parquet.gz", (tmp_path / "a.parquet").read_bytes())
    assert found(zipped) == list(enumerate(rows, 1))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    assert "is not readable parquet" in fault(write(tmp_path, "a.parquet", "PAR1, honestly")).what


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path, name):
    content = {"a.json": '[{"text": "x"}]', "a.jsonl": '{"text": "x"}', "a.csv": "text\nx\n", "a.txt": "x\n"}[name]
    assert [value for _, value in found(write(tmp_path, name, b"\xef\xbb\xbf" + content.encode()))] == [{"text": "x"}]
    assert "is UTF-16" in fault(write(tmp_path, name, content.encode("utf-16"))).what


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt", "b.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_named(tmp_path, name, content):
    path = write(tmp_path, name, content)
    problem = fault(path)
    if name == "a.csv" and content:
        assert problem.where.startswith(str(path))
    else:
        assert (problem.where, problem.what) == (str(path), "holds no rows")


@pytest.mark.parametrize(("name", "content"), [("a.json", "[ ]"), ("a.csv", "text,label\n")])
def test_a_file_of_no_rows_is_named(tmp_path, name, content):
    assert fault(write(tmp_path, name, content)).what == "holds no rows"


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 1,}\n', 2, "is not JSON: Expecting property name"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\n', 2, "is not JSON: Invalid control character"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', 2, "the row is a list of 1, not an object"),
        ("a.jsonl", b'{"a": 1}\nnull\n', 2, "the row is null, not an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', 2, "is not UTF-8: byte 0xe9 at byte 11"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}\n', 2, "holds half a character"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1} {"a": 2}\n', 2, "is not JSON: Extra data at column 10"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 200_000 + b"\n", 2, "is not usable JSON"),
        ("a.txt", b"one\n\ncaf\xe9\n", 3, "is not UTF-8: byte 0xe9 at byte 4"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", 3, "has 3 fields, the header 2"),
        ("a.csv", b"a,b\n1,2\n1\n", 3, "has 1 fields, the header 2"),
        ("a.csv", b'a,b\n"1\n2",3\n"x\ncaf\xe9",4\n', 5, "is not UTF-8"),
        ("a.csv", b'a,b\n1,2\n1,"2\n3,4\n', 3, "the record that starts here is not CSV"),
        ("a.csv", b"a,b,a\n1,2,3\n", 1, "the header names 'a' twice"),
        ("a.csv", b"a;b\n1;2\n", 1, "the header is one column, 'a;b'"),
        ("a.json", b'[{"a": 1},\n {"a": 1,}]', 2, "is not JSON"),
        ("a.json", b'[{"a": 1},\n {"a":\n tru}]', 3, "in the row that starts on line 2"),
        ("a.json", b'[{"a": 1},\n 7]', 2, "the row is a number, not an object"),
        ("a.json", b'[{"a": 1}\n {"a": 2}]', 2, "a comma is missing between two rows, at column 2"),
        ("a.json", b'[{"a": 1},\n {"a": 2}\n', 3, "the array is not closed"),
        ("a.json", b'[{"a": 1},\n]', 2, "a comma with no row behind it"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', 2, "there is more text behind the array"),
        ("a.json", b'[{"a": 1},\n {"a": "x\\n",\n "b": "caf\xe9"}]', 3, "is not UTF-8"),
        ("a.json", b'[{"a": 1},\n {"a": "\\udc00"}]', 2, "holds half a character"),
        ("a.json", b'{"data": [{"a": 1}]}', 1, "is not an array of objects but one object"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', 1, "is not an array of objects but one object after another"),
        ("a.json", b'"text"', 1, "is not an array of objects"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path, name, content, line, what):
    path = write(tmp_path, name, content)
    problem = fault(path)
    assert problem.where == f"{path}:{line}"
    assert what in problem.what


def test_a_json_array_called_jsonl_is_told_apart_from_a_broken_row(tmp_path):
    assert "read from a .json file" in fault(write(tmp_path, "a.jsonl", '[\n{"a": 1}\n]\n')).fix


def test_a_cut_off_archive_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(50_000).hex().encode())[:20_000])
    assert (fault(path).where, fault(path).what.split(":")[0]) == (str(path), "is damaged")


@pytest.mark.parametrize(
    ("name", "content", "bad", "good"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n\xff\n3\n{"a": 2}\n', [2, 3, 4], [1, 5]),
        ("a.json", b'[{"a": 1},\n3,\n{"a": "\xff"},\n{"a": "\\ud800"},\n{"a": 2}]', [2, 3, 4], [1, 5]),
        ("a.csv", b"a,b\n1,2\n1\n\xff,2\n3,4\n", [3, 4], [2, 5]),
        ("a.txt", b"one\n\xff\ntwo\n", [2], [1, 3]),
    ],
)
def test_a_listener_hears_of_every_bad_row_and_the_good_ones_still_come(tmp_path, name, content, bad, good):
    path = write(tmp_path, name, content)
    heard: list[Problem] = []
    assert [row.line for row in read_rows(path, on_fault=heard.append)] == good
    assert [problem.where for problem in heard] == [f"{path}:{line}" for line in bad]


def test_a_file_of_only_bad_rows_is_not_called_empty(tmp_path):
    heard: list[Problem] = []
    assert list(read_rows(write(tmp_path, "a.jsonl", "1\n2\n"), on_fault=heard.append)) == []
    assert len(heard) == 2


def test_a_listener_cannot_silence_an_array_that_breaks_off(tmp_path):
    # The rows behind the break could not be counted.
    with pytest.raises(DataError, match="is not JSON"):
        list(read_rows(write(tmp_path, "a.json", '[{"a": 1}, {"a" 2}, {"a": 3}]'), on_fault=lambda problem: None))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_a_json_array_reads_the_same_however_its_chunks_fall(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_array, "_FIRST_CHUNK_BYTES", chunk)
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", chunk)
    rows = [
        {"text": 'naïve "quotes" \\ and\n\u2028 lines 🐈', "n": -12.5e-3},
        {"flags": [True, False, None], "deep": {"a": [{}]}},
        {},
    ]
    path = write(tmp_path, "a.json", json.dumps(rows, indent=2, ensure_ascii=False))
    assert [row.value for row in read_rows(path)] == rows
    # worked by hand: "[" is line 1, each object starts a line, and indent=2 gives 4 lines to the first
    assert [row.line for row in read_rows(path)][:2] == [2, 6]
    escaped = write(tmp_path, "b.json", json.dumps(rows))
    assert [row.value for row in read_rows(escaped)] == rows


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_a_fault_in_a_json_array_is_placed_the_same_however_its_chunks_fall(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_array, "_FIRST_CHUNK_BYTES", chunk)
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", chunk)
    problem = fault(write(tmp_path, "a.json", '[{"a": 1},\n  {"a": 2, "b" 3}, {"a": "some more text behind"}]'))
    # `  {"a": 2, "b" 3}`: the 3 stands where a colon should, in column 16
    assert problem.where.endswith("a.json:2")
    assert problem.what == "is not JSON: Expecting ':' delimiter, at column 16"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_peek_at_a_huge_file_reads_only_its_beginning(tmp_path, name):
    begin = {"a.jsonl": '{"a": "1"}\n{"a": "2"}\n', "a.json": '[{"a": "1"},\n{"a": "2"},\n'}.get(name, "a\n1\n2\n")
    path = write(tmp_path, name, begin)
    # A hole of 20 GiB: nobody reads to its end within a second.
    os.truncate(path, 20 * 2**30)
    begun = time.perf_counter()
    assert len(peek_rows(path, 2)) == 2
    assert time.perf_counter() - begun < 1


def test_a_peek_gives_all_rows_when_there_are_fewer(tmp_path):
    assert len(peek_rows(write(tmp_path, "a.txt", "one\ntwo\n"), 5)) == 2


def test_a_field_longer_than_the_csv_modules_limit_is_read(tmp_path):
    long = "word " * 100_000
    assert found(write(tmp_path, "a.csv", f"text\n{long}\n")) == [(2, {"text": long})]


def refusal(path: Path) -> Problem:
    with pytest.raises(ConfigError) as caught:
        resolve_file(path, "data.path=…")
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    assert problem.where == "data.path=…"
    return problem


def test_a_missing_file_is_refused_with_the_nearest_name_that_is_there(tmp_path):
    write(tmp_path, "alpaca.json", "[]")
    write(tmp_path, "notes.md", "")
    problem = refusal(tmp_path / "alpacca.jsn")
    assert "does not exist" in problem.what
    assert problem.fix == f"did you mean {tmp_path / 'alpaca.json'}?"
    assert refusal(tmp_path / "zzz").fix == f"{tmp_path} holds alpaca.json"
    assert "folder" in refusal(tmp_path / "nowhere" / "a.json").fix


def test_a_folder_or_a_file_of_unknown_kind_is_refused(tmp_path):
    write(tmp_path, "a.jsonl", "")
    assert "is a folder" in refusal(tmp_path).what
    assert (
        refusal(write(tmp_path, "a.docx", "")).fix
        == "use one of .json, .jsonl, .csv, .txt, .parquet, each also with .gz"
    )
    assert "of no kind" in refusal(write(tmp_path, "a.gz", "")).what


def test_an_odd_name_is_taken_literally(tmp_path):
    path = write(tmp_path, "y (1) [a]*.JSONL", '{"a": 1}\n')
    assert resolve_file(path, "") == path
    assert found(path) == [(1, {"a": 1})]
