"""Rows come out of every kind of file with the line they stand on, and every fault is named by file and line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcli.core.errors import ConfigError, DataError, Problem
from ftcli.data.files import json_reader
from ftcli.data.files.reader import Row, peek_rows, read_rows, resolve_file


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("pyarrow").compress(data, codec="zstd", asbytes=True)


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(PACKED.get(path.suffix, bytes)(data))
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
    assert row == Row(str(path), 1, {"text": "one"}, plain=True)
    assert row.where == f"{path}:1"


# "two" stands on line 3 of each: blank lines count as lines and are no rows.
@pytest.mark.parametrize("suffix", ["", *PACKED])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}'),
        ("a.json", '[{"text": "one"},\n\n  {"text": "two"}\n]\n'),
        ("a.ndjson", '{"text": "one"}\n\n{"text": "two"}\n'),
        ("a.txt", "one\n\ntwo\n"),
        ("a.tsv", "text\none\n\ntwo\n"),
    ],
)
def test_rows_come_with_the_line_they_start_on(tmp_path, name, content, suffix):
    later = 1 if name == "a.tsv" else 0  # by its header
    rows = [(1 + later, {"text": "one"}), (3 + later, {"text": "two"})]
    assert found(write(tmp_path, name + suffix, content)) == rows


def test_csv_rows_come_with_the_line_they_start_on_even_after_fields_of_several_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'text,n\r\n"one\nmore",1\n\n"say ""two""",2\n')
    assert found(path) == [(2, {"text": "one\nmore", "n": "1"}), (5, {"text": 'say "two"', "n": "2"})]


def test_parquet_rows_come_with_their_number(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=700)
    assert found(tmp_path / "a.parquet") == list(enumerate(ROWS, 1))
    zipped = write(tmp_path, "b.parquet.gz", (tmp_path / "a.parquet").read_bytes())
    assert found(zipped) == list(enumerate(ROWS, 1))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    assert "is not readable parquet" in fault(write(tmp_path, "a.parquet", "PAR1, honestly")).what


ROWS = [{"messages": [{"role": "user", "content": f"{i}"}], "label": i % 2 == 0} for i in range(3000)]


@pytest.mark.parametrize("suffix", ["", *PACKED])
@pytest.mark.parametrize("written", ["file", "stream", "feather"])
def test_arrow_rows_come_with_their_number_from_files_and_streams(tmp_path, written, suffix):
    arrow = pytest.importorskip("pyarrow")
    feather = pytest.importorskip("pyarrow.feather")
    table, plain = arrow.Table.from_pylist(ROWS), tmp_path / "plain"
    if written == "feather":
        feather.write_feather(table, str(plain), compression="lz4")
    else:
        with {"file": arrow.ipc.new_file, "stream": arrow.ipc.new_stream}[written](plain, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    name = "a.feather" if written == "feather" else "a.arrow"
    assert found(write(tmp_path, name + suffix, plain.read_bytes())) == list(enumerate(ROWS, 1))


def test_an_arrow_stream_that_was_broken_off_between_two_batches_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.arrow"
    batch = arrow.record_batch({"a": list(range(1000))})
    with arrow.ipc.new_stream(path, batch.schema) as writer:
        writer.write_batch(batch)
    assert len(found(path)) == 1000
    os.truncate(path, path.stat().st_size - 8)  # the end mark
    assert "the end mark is missing" in fault(path).what


@pytest.mark.parametrize(
    "content", [b"ARROW1, honestly", b"honestly, a stream", b"ARROW1\0\0" + bytes(200), b"FEA1" * 9]
)
def test_a_file_that_is_no_arrow_file_is_named(tmp_path, content):
    pytest.importorskip("pyarrow")
    path = write(tmp_path, "a.arrow", content)
    problem = fault(path)
    assert problem.where == f"{path}:1"
    assert "arrow" in problem.what.lower() or "Feather V1 format" in problem.what


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_text_in_a_column_that_is_not_utf8_costs_its_row_and_is_named_by_column(tmp_path, name):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    raw = arrow.array([b"one", b"caf\xe9", b"three"], arrow.binary())
    text = arrow.Array.from_buffers(arrow.string(), 3, raw.buffers())
    table = arrow.table({"n": [1, 2, 3], "text": text})
    if name == "a.parquet":
        parquet.write_table(table, tmp_path / name)
    else:
        with arrow.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    heard: list[Problem] = []
    rows = [row.value for row in read_rows(tmp_path / name, on_fault=heard.append)]
    assert rows == [{"n": 1, "text": "one"}, {"n": 3, "text": "three"}]
    assert [(problem.where, problem.what) for problem in heard] == [(f"{tmp_path / name}:2", "'text' is not UTF-8")]


def test_a_column_that_is_there_twice_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    batch = arrow.RecordBatch.from_arrays([arrow.array(["x"]), arrow.array(["y"])], ["text", "text"])
    with arrow.ipc.new_file(tmp_path / "a.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    assert "has two columns named 'text'" in fault(tmp_path / "a.arrow").what


_PEAK = """
import resource, sys
from pathlib import Path
import pyarrow, pyarrow.parquet
from ftcli.data.files.reader import read_rows
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
print(sum(1 for _ in read_rows(Path(sys.argv[1]))), peak() - before)
"""


def test_parquet_written_as_one_row_group_is_read_in_a_fraction_of_its_size(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    # 1500 texts of 100 kB: 150 MB in one group.
    noise = os.urandom(1_000_000).hex()
    table = arrow.table({"text": [noise[i * 300 :][:100_000] for i in range(1500)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1500, compression="none", use_dictionary=False)
    del table
    assert (tmp_path / "a.parquet").stat().st_size > 145e6
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True
    )
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 1500
    assert mebibytes < 110


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
        assert (problem.where, problem.what) == (str(path), "has no rows")


@pytest.mark.parametrize(("name", "content"), [("a.json", "[ ]"), ("a.csv", "text,label\n")])
def test_a_file_of_no_rows_is_named(tmp_path, name, content):
    assert fault(write(tmp_path, name, content)).what == "has no rows"


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 1,}\n', 2, "is not JSON: Expecting property name"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\n', 2, "is not JSON: Invalid control character"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', 2, "the row is a list of 1, not an object"),
        ("a.jsonl", b'{"a": 1}\nnull\n', 2, "the row is null, not an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', 2, "is not UTF-8: byte 0xe9 at byte 11"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}\n', 2, "contains half a character in a: "),
        ("a.jsonl", b'{"a": 1}\n{"a": 1} {"a": 2}\n', 2, "is not JSON: Extra data at column 10"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 200_000 + b"\n", 2, "is not usable JSON"),
        ("a.txt", b"one\n\ncaf\xe9\n", 3, "is not UTF-8: byte 0xe9 at byte 4"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", 3, "has 3 fields, the header 2"),
        ("a.csv", b"a,b\n1,2\n1\n", 3, "has 1 fields, the header 2"),
        ("a.csv", b'a,b\n"1\n2",3\n"x\ncaf\xe9",4\n', 5, "is not UTF-8"),
        ("a.csv", b'a,b\n1,2\n1,"2\n3,4\n', 3, "the record that starts here is not CSV"),
        ("a.csv", b"a,b,a\n1,2,3\n", 1, "the header names 'a' twice"),
        ("a.csv", b"a,b\n1,caf\xe9\n", 2, "is not UTF-8: byte 0xe9 at byte 6 of the line, in 'b'"),
        ("a.tsv", b"a\tb\n1\t2\n1\n", 3, "has 1 fields, the header 2"),
        ("a.tsv", b'a\tb\n1\t"2\n3\t4\n', 2, "the record that starts here is not TSV"),
        ("a.json", b'[{"a": 1},\n {"a": 1,}]', 2, "is not JSON"),
        ("a.json", b'[{"a": 1},\n {"a":\n tru}]', 3, "in the row that starts on line 2"),
        ("a.json", b'[{"a": 1},\n 7]', "2[1]", "the row is a number, not an object"),
        ("a.json", b'[{"a": 1}\n {"a": 2}]', 2, "a comma is missing between two rows, at column 2"),
        ("a.json", b'[{"a": 1},\n {"a": 2}\n', 3, "the array is not closed"),
        ("a.json", b'[{"a": 1},\n]', 2, "a comma without a row after it"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]', 2, "there is more text after the array"),
        ("a.json", b'[{"a": 1},\n {"a": "x\\n",\n "b": "caf\xe9"}]', "3[1]", "is not UTF-8"),
        ("a.json", b'[{"a": 1},\n {"a": "\\udc00"}]', "2[1]", "contains half a character"),
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
    for array in ('[\n{"a": 1}\n]\n', '[{"a": 1},\n{"a": 2}]\n', '[{"a": 1}, {"a": 2}]'):
        found = []
        with pytest.raises(DataError) as raised:  # once, and not again for each of its lines
            list(read_rows(write(tmp_path, "a.jsonl", array), found.append))
        assert found == []
        assert raised.value.problems[0].fix == "rename the file to .json"


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("damage", ["cut off early", "cut off at the end", "no archive"])
def test_a_damaged_archive_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"a.txt{suffix}"
    packed = PACKED[suffix](os.urandom(50_000).hex().encode())
    path.write_bytes({"cut off early": packed[:20_000], "cut off at the end": packed[:-3]}.get(damage, b"\0no archive"))
    # Whether or not a row was whole before the damage: here the file is one line.
    assert (fault(path).where, fault(path).what.split(":")[0]) == (str(path), "is damaged")


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"])
def test_a_compressed_file_without_its_ending_is_told_with_the_ending(tmp_path, name, suffix):
    path = write(tmp_path, name, PACKED[suffix](b'{"text": "x"}\n'))
    problem = fault(path)
    assert problem.where == str(path)
    assert problem.what.startswith("is compressed with ")
    assert problem.fix == f"end its name with {suffix}, or unpack it"


def test_an_ending_of_another_compression_or_of_none_is_told(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"text": "x"}\n')
    assert (fault(path).what, fault(path).fix) == (
        "is named as gzip but is plain text", "remove that ending from its name"
    )  # fmt: skip
    path.write_bytes(bz2.compress(b'{"text": "x"}\n'))
    assert (fault(path).what, fault(path).fix) == ("is named as gzip but is bz2", "end its name with .bz2")


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PAR1\0\0", "is a parquet file"),
        (b"ARROW1\0\0", "is an Arrow file"),
        (b"PK\x03\x04\x14\0", "is a zip archive or a spreadsheet"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_what_is_no_text_with_rows_is_told_by_its_first_bytes(tmp_path, name, start, what):
    assert fault(write(tmp_path, name, start + b"\0" * 40)).what.startswith(what)


def test_a_web_page_is_told_unless_pages_are_the_text(tmp_path):
    page = "<!DOCTYPE html>\n<html>"
    assert fault(write(tmp_path, "a.jsonl", page)).what == "is a web page, not data"
    assert found(write(tmp_path, "a.txt", page)) == [(1, {"text": "<!DOCTYPE html>"}), (2, {"text": "<html>"})]


@pytest.mark.parametrize(
    ("name", "fix"), [("a.xlsx", "save the sheet as CSV"), ("a.pkl", "as .parquet or .jsonl"), ("a.zip", "unpack it")]
)
def test_a_file_of_another_program_is_refused_with_what_to_save_it_as(tmp_path, name, fix):
    path = write(tmp_path, name, "x")
    with pytest.raises(ConfigError) as caught:
        resolve_file(path, "data.path=…")
    assert fix in caught.value.problems[0].fix


@pytest.mark.parametrize("suffix", PACKED)
def test_an_archive_of_several_parts_is_read_to_its_end(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACKED[suffix](b"one\n") + PACKED[suffix](b"two\n"))
    assert found(path) == [(1, {"text": "one"}), (2, {"text": "two"})]


def test_a_file_that_went_away_is_named(tmp_path):
    assert fault(tmp_path / "a.jsonl").what == "cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("name", "content", "bad", "good"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n\xff\n3\n{"a": 2}\n', [2, 3, 4], [1, 5]),
        ("a.json", b'[{"a": 1},\n3,\n{"a": "\xff"},\n{"a": "\\ud800"},\n{"a": 2}]', ["2[1]", "3[2]", "4[3]"], [1, 5]),
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
    monkeypatch.setattr(json_reader, "FIRST_CHUNK_BYTES", chunk)
    monkeypatch.setattr(json_reader, "CHUNK_BYTES", chunk)
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
    monkeypatch.setattr(json_reader, "FIRST_CHUNK_BYTES", chunk)
    monkeypatch.setattr(json_reader, "CHUNK_BYTES", chunk)
    problem = fault(write(tmp_path, "a.json", '[{"a": 1},\n  {"a": 2, "b" 3}, {"a": "some more text behind"}]'))
    # `  {"a": 2, "b" 3}`: the 3 stands where a colon should, in column 16
    assert problem.where.endswith("a.json:2")
    assert problem.what == "is not JSON: Expecting ':' delimiter, at column 16"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_peek_at_a_huge_file_reads_only_its_beginning(tmp_path, name):
    begin = {"a.jsonl": '{"a": "1"}\n{"a": "2"}\n', "a.json": '[{"a": "1"},\n{"a": "2"},\n'}.get(name, "a\n1\n2\n")
    path = write(tmp_path, name, begin)
    # A hole of 20 GiB: nobody reads to its end within a second of the processor.
    os.truncate(path, 20 * 2**30)
    begun = time.process_time()
    assert len(peek_rows(path, 2)) == 2
    assert time.process_time() - begun < 1


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
    assert refusal(tmp_path / "zzz").fix == f"{tmp_path} has alpaca.json"
    assert "folder" in refusal(tmp_path / "nowhere" / "a.json").fix


def test_a_folder_or_a_file_of_unknown_kind_is_refused(tmp_path):
    write(tmp_path, "a.jsonl", "")
    assert "is a folder" in refusal(tmp_path).what
    known = ".json, .jsonl, .ndjson, .csv, .tsv, .txt, .parquet, .arrow, .feather"
    fix = f"use one of {known}, each also with .gz, .bz2, .xz or .zst"
    assert refusal(write(tmp_path, "a.bin", "")).fix == fix
    assert "not a supported file type" in refusal(write(tmp_path, "a.gz", "")).what


def test_an_odd_name_is_taken_literally(tmp_path):
    path = write(tmp_path, "y (1) [a]*.JSONL", '{"a": 1}\n')
    assert resolve_file(path, "") == path
    assert found(path) == [(1, {"a": 1})]
