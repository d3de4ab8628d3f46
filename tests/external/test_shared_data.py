"""Sets from the wild, unedited: each is recognised, and every row is read and converted, by an independent count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.data.formats import FORMATS, convert, recognise
from ftcli.data.read import peek_rows, read_rows, resolve_file

FOLDER = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder ../shared/data beside the project")

EXPECTED = {
    "alpaca_en_demo.json": "alpaca",
    "c4_demo.jsonl": "text",
    "dpo_en_demo.json": "sharegpt_preference",
    "glaive_toolcall_en_demo.json": "sharegpt",
    "identity.json": "alpaca",
    "kto_en_demo.json": "labelled_messages",
}


def independent_rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


def test_every_set_in_the_folder_is_expected():
    assert {path.name for path in FOLDER.iterdir()} - {"dataset_info.json"} == set(EXPECTED)


@pytest.mark.parametrize(("name", "format_name"), EXPECTED.items())
def test_a_set_is_recognised_and_every_row_is_read_and_converted(name, format_name):
    path = resolve_file(FOLDER / name, "data.path")
    (first,) = peek_rows(path)
    fmt = recognise(first.value)
    assert fmt is FORMATS[format_name]
    rows = list(read_rows(path))
    independent = independent_rows(path)
    assert [row.value for row in rows] == independent
    assert {recognise(row.value) for row in rows} == {fmt}
    assert len([convert(fmt, row) for row in rows]) == len(independent)
    assert not any(fmt.unread(row.value) for row in rows)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.endswith(".json")])
def test_the_line_of_a_row_is_the_one_its_object_starts_on(name):
    # These files are indented by two: a line that is exactly "  {" starts a row.
    lines = (FOLDER / name).read_text(encoding="utf-8").split("\n")
    starts = [number for number, line in enumerate(lines, 1) if line == "  {"]
    assert [row.line for row in read_rows(FOLDER / name)] == starts


def test_tool_calls_keep_their_functions_and_arguments():
    path = FOLDER / "glaive_toolcall_en_demo.json"
    converted = [convert(FORMATS["sharegpt"], row) for row in read_rows(path)]
    called = [
        call["function"] for example in converted for turn in example["messages"] for call in turn.get("tool_calls", [])
    ]
    told = [
        json.loads(turn["value"])
        for row in independent_rows(path)
        for turn in row["conversations"]
        if turn["from"] == "function_call"
    ]
    assert called == told
    declared = sum(bool(json.loads(row["tools"])) for row in independent_rows(path))
    assert sum("tools" in example for example in converted) == declared > 0


def test_judged_answers_keep_their_labels():
    path = FOLDER / "kto_en_demo.json"
    converted = [convert(FORMATS["labelled_messages"], row) for row in read_rows(path)]
    assert [example["label"] for example in converted] == [row["label"] for row in independent_rows(path)]
