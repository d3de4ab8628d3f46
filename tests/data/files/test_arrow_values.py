"""A value from a parquet or Arrow file is the one that a JSON file of the same rows holds."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import DataError, Problem
from ftcli.data.files.reader import read_rows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")
pd = pytest.importorskip("pandas")


def written(path: Path, table: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        feather.write_feather(table, str(path))
    return path


def values(path: Path) -> list[dict[str, Any]]:
    return [row.value for row in read_rows(path)]


def column(path: Path, array: Any) -> list[Any]:
    return [row["c"] for row in values(written(path, pa.table({"c": array})))]


CALLS = [
    {"id": 1, "tools": [{"name": "add", "parameters": {"a": {"type": "int"}, "b": {"type": "int"}}}], "note": None},
    {"id": 2, "tools": [{"name": "look", "parameters": {"town": {"type": "text", "enum": ["Ulm"]}}}], "note": "x"},
    {"id": 3, "tools": [], "note": None},
]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_keys_that_only_other_rows_have_are_not_there(tmp_path, suffix):
    # Arrow's struct of all rows has a, b and town; `note` is a column, whose null stays.
    assert values(written(tmp_path / f"rows{suffix}", pa.Table.from_pylist(CALLS))) == CALLS


def test_a_null_in_a_list_stays_and_one_in_json_text_too(tmp_path):
    rows = [{"c": [1, None]}, {"c": [None]}, {"c": None}]
    assert values(written(tmp_path / "a.parquet", pa.Table.from_pylist(rows))) == rows
    text = '{"town": "Ulm", "a": null}'
    assert column(tmp_path / "b.parquet", pa.array([text])) == [text]
    (tmp_path / "c.jsonl").write_text(json.dumps({"c": {"a": None}}))
    assert values(tmp_path / "c.jsonl") == [{"c": {"a": None}}]


def test_a_map_is_an_object_at_any_depth_and_keeps_its_nulls(tmp_path):
    kind = pa.map_(pa.string(), pa.struct([("type", pa.string()), ("size", pa.int64())]))
    maps = pa.array([[("a", {"type": "int"}), ("b", None)], None, []], kind)
    assert column(tmp_path / "a.parquet", maps) == [{"a": {"type": "int"}, "b": None}, None, {}]
    inside = pa.array([[{"m": [("a", {"size": 3})]}]], pa.list_(pa.struct([("m", kind)])))
    assert column(tmp_path / "b.arrow", inside) == [[{"m": {"a": {"size": 3}}}]]


def test_a_key_twice_in_a_map_is_a_fault_of_its_row(tmp_path):
    maps = pa.array([[("a", 1)], [("b", 1), ("b", 2)], [("c", 3)]], pa.map_(pa.string(), pa.int64()))
    told: list[Problem] = []
    path = written(tmp_path / "a.parquet", pa.table({"c": maps}))
    assert [row.value["c"] for row in read_rows(path, on_fault=told.append)] == [{"a": 1}, {"c": 3}]
    assert [(each.where, each.what) for each in told] == [(f"{path}:2", "c has the key 'b' twice in a map")]


_STRUCT = pa.struct([("role", pa.string()), ("name", pa.string())])


@pytest.mark.parametrize(
    "kind",
    [pa.list_(_STRUCT), pa.large_list(_STRUCT), pa.list_(_STRUCT, 1), pa.struct([("of", pa.list_(_STRUCT))])],
    ids=["list", "large", "fixed", "in a struct"],
)
def test_every_kind_of_list_gives_plain_lists(tmp_path, kind):
    turn = [{"role": "user"}]
    value = {"of": turn} if pa.types.is_struct(kind) else turn
    assert column(tmp_path / "a.arrow", pa.array([value, None], kind)) == [value, None]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["one", None, "one"]).dictionary_encode(),
        pa.array(["one", None, "one"], pa.large_string()),
        pa.array(["one", None, "one"], pa.string_view()),
        pa.array([b"one", None, b"one"]),
        pa.array([b"one", None, b"one"], pa.large_binary()),
    ],
    ids=["dictionary", "large", "view", "binary", "large binary"],
)
def test_every_kind_of_text_column_gives_text(tmp_path, array):
    assert column(tmp_path / "a.arrow", array) == ["one", None, "one"]


def test_bytes_that_are_no_text_stay_bytes_and_only_a_column_of_text_minds(tmp_path):
    assert column(tmp_path / "a.parquet", pa.array([b"\xff\xd8"])) == [b"\xff\xd8"]


def test_what_pandas_writes_gives_the_rows_and_not_its_index(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    frame = pd.DataFrame({"messages": [turns], "kind": pd.Categorical(["chat"])}, index=["first"])
    frame.to_parquet(tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").names[-1] == "__index_level_0__"
    assert values(tmp_path / "a.parquet") == [{"messages": turns, "kind": "chat"}]


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (pa.array([datetime(2024, 1, 2)]), "prompt is a date and time, not text"),
        (pa.array([Decimal("1.50")]), "prompt is a decimal number, not text"),
        (pa.array([b"\xff\xd8"]), "prompt is bytes that are not UTF-8, not text"),
        (pa.array([float("nan")]), "prompt is the number NaN, not text"),
    ],
    ids=["timestamp", "decimal", "bytes", "NaN"],
)
def test_a_column_that_is_no_text_is_named_with_what_it_is(problems, tmp_path, array, what):
    path = written(tmp_path / "a.parquet", pa.table({"prompt": array, "completion": ["x"]}))
    [told] = problems("method=sft", f"data.path={path}")
    assert what in told


def test_a_time_that_python_does_not_know_is_named_with_its_column(tmp_path):
    path = written(tmp_path / "a.arrow", pa.table({"at": pa.array([10**18], pa.timestamp("s"))}))
    with pytest.raises(DataError, match=r"column 'at', of type timestamp\[s\], has a value that cannot be read"):
        values(path)
