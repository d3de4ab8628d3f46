"""A key that stands twice in one object of a row is a fault: a parser would keep one value and lose the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.core.errors import Problem
from ftcli.data.files.reader import read_rows

TWICE = {
    "a": '{"a": 1, "a": 2}',
    "b": '{"a": [{"b": 1}, {"b": 1, "c": 2, "b": 3}]}',
    "deep": '{"a": {"x": [[{"deep": null, "deep": null}]]}}',
    "say": '{"say": "he wrote \\\\\\": and \\": so", "say": ""}',
    "spaced": '{"spaced" : 1, "spaced" : 2}',
}
ONCE = [
    '{"a": {"b": 1}, "c": [{"b": 1}, {"b": 2}]}',
    '{"a": "{\\"b\\": 1, \\"b\\": 2}"}',
    '{"a" : 1, "b" :{"a":1}}',
    '{"ends in a backslash \\\\": 1, "b": [[{"c": 1}]]}',
    "{}",
]


def told(path: Path) -> list[Problem]:
    found: list[Problem] = []
    list(read_rows(path, on_fault=found.append))
    return found


@pytest.mark.parametrize("key", TWICE)
def test_a_key_twice_is_told_with_its_row(tmp_path, key):
    (tmp_path / "a.jsonl").write_text(f"{ONCE[0]}\n{TWICE[key]}\n{ONCE[0]}\n")
    (tmp_path / "a.json").write_text(f"[{ONCE[0]}, {TWICE[key]}, {ONCE[0]}]")
    for name, place in (("a.jsonl", "2"), ("a.json", "1[1]")):
        [problem] = told(tmp_path / name)
        assert problem.where == f"{tmp_path / name}:{place}"
        assert problem.what == f"has the key {key!r} twice in one object"


@pytest.mark.parametrize("row", ONCE)
def test_a_row_without_one_is_read(tmp_path, row):
    (tmp_path / "a.jsonl").write_text(row + "\n")
    assert [each.value for each in read_rows(tmp_path / "a.jsonl")] == [json.loads(row)]
