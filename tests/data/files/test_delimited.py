"""CSV as spreadsheets and other programs write it: every delimiter, quotes behind a space, columns without a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.core.errors import DataError, Problem
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.reader import read_rows

ROWS = [{"prompt": "hi; there, you | all", "completion": "1,5\tor 2"}, {"prompt": 'a "b"', "completion": "x\ny"}]
MARKS = (",", ";", "\t", "|")


def quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, delimiter: str = "") -> list[dict[str, str]]:
    return [row.value for row in read_rows(DataFile(str(path), str(path), delimiter))]


def problems(path: Path) -> list[Problem]:
    told: list[Problem] = []
    list(read_rows(path, on_fault=told.append))
    return told


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("mark", MARKS)
def test_the_delimiter_is_recognised_whatever_the_texts_hold(tmp_path, mark, suffix):
    lines = [mark.join(("prompt", "completion")), *(mark.join(map(quoted, row.values())) for row in ROWS)]
    assert values(write(tmp_path / f"a{suffix}", "\n".join(lines) + "\n")) == ROWS
    assert values(write(tmp_path / f"b{suffix}", "\ufeff" + "\r\n".join(lines))) == ROWS


def test_a_long_file_is_recognised_by_its_beginning(tmp_path):
    rows = [{"prompt": f"{index}, please", "completion": "so; " * 300} for index in range(50)]
    lines = ["prompt;completion", *(f"{row['prompt']};{quoted(row['completion'])}" for row in rows)]
    assert values(write(tmp_path / "a.csv", "\n".join(lines))) == rows


def test_a_named_delimiter_is_taken_and_a_declared_one_too(tmp_path):
    # A comma would fit as well, and is the usual one.
    content = "a,x;b\n1,2;3\n"
    assert values(write(tmp_path / "a.csv", content)) == [{"a": "1", "x;b": "2;3"}]
    assert values(tmp_path / "a.csv", ";") == [{"a,x": "1,2", "b": "3"}]
    assert values(write(tmp_path / "b.csv", "sep=;\r\n" + content)) == [{"a,x": "1,2", "b": "3"}]


def test_one_column_of_prose_stays_one_column(tmp_path):
    assert values(write(tmp_path / "a.csv", "text\none; two | three\n")) == [{"text": "one; two | three"}]


def test_quotes_behind_a_space_are_quotes_where_every_field_has_the_space(tmp_path):
    content = 'prompt, completion\nhi there, "ho, ""ho"""\nyou there, "ha"\n'
    rows = [{"prompt": "hi there", "completion": 'ho, "ho"'}, {"prompt": "you there", "completion": "ha"}]
    assert values(write(tmp_path / "a.csv", content)) == rows


def test_quotes_behind_a_space_are_a_fault_where_other_fields_have_none(tmp_path):
    path = write(tmp_path / "a.csv", 'prompt,completion\nhi,ho\nyou, "ha"\n')
    [problem] = problems(path)
    assert (problem.where, problem.what) == (f"{path}:3", "in completion a quote stands behind a space")
    assert "right behind the comma" in problem.fix


def test_a_space_without_a_quote_stays_part_of_the_text(tmp_path):
    assert values(write(tmp_path / "a.csv", "a, b\n1, 2\n")) == [{"a": "1", "b": " 2"}]


def test_columns_without_a_name_must_be_empty_unless_they_are_pandas_index(tmp_path):
    assert values(write(tmp_path / "a.csv", ",a,b,\n0,x,y,\n1,z,w\n")) == [{"a": "x", "b": "y"}, {"a": "z", "b": "w"}]
    assert values(write(tmp_path / "b.csv", "a,b\nx,y,,\n")) == [{"a": "x", "b": "y"}]
    path = write(tmp_path / "c.csv", "a,b,\nx,y,z\n")
    [problem] = problems(path)
    assert problem.where == f"{path}:2"
    assert problem.what == "has the text 'z' in column 3, which the header does not name"


@pytest.mark.parametrize(("name", "head"), [("a.csv", "text"), ("a.txt", ""), ("a.jsonl", "")])
def test_lines_that_end_with_cr_alone_are_lines(tmp_path, name, head):
    rows = ["one", "two, three"]
    lines = [f'{{"text": "{row}"}}' if name == "a.jsonl" else f'"{row}"' if head else row for row in rows]
    path = write(tmp_path / name, "\r".join([*([head] if head else []), *lines]))
    assert values(path) == [{"text": row} for row in rows]
    assert [row.line for row in read_rows(path)] == ([2, 3] if head else [1, 2])


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json"])
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_wide_text_without_a_mark_is_named_with_the_remedy(tmp_path, name, encoding):
    path = write(tmp_path / name, '[{"text": "naïve"}]'.encode(encoding))
    with pytest.raises(DataError) as caught:
        values(path)
    [problem] = caught.value.problems
    assert problem.what == f"is {encoding} without a mark, not UTF-8"
    assert f"iconv -f {encoding}" in problem.fix


@pytest.mark.parametrize("written", ["semicolon", "';'", ";"])
def test_the_setting_names_a_delimiter(problems, tmp_path, written):
    path = write(tmp_path / "a.csv", "prompt;completion\nhi;ho\n")
    assert problems("method=sft", f"data.path={path}", f"data.delimiter={written}") == []


def test_a_delimiter_that_is_none_or_has_no_effect_is_refused(problems, tmp_path):
    path = write(tmp_path / "a.csv", "prompt,completion\nhi,ho\n")
    [told] = problems("method=sft", f"data.path={path}", "data.delimiter=colons")
    assert "data.delimiter='colons' is not a delimiter" in told
    path = write(tmp_path / "a.jsonl", '{"prompt": "hi", "completion": "ho"}\n')
    [told] = problems("method=sft", f"data.path={path}", "data.delimiter=comma")
    assert "data.delimiter has no effect: none of the files is .csv or .tsv" in told
    mix = f"data.mix={{a: {{path: {path}, delimiter: comma}}}}"
    [told] = problems("method=sft", mix)
    assert "data.mix.a.delimiter has no effect" in told
