"""Conversations and lists kept as JSON text are read as such, and text that only looks like them stays text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import DataError
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.reader import Row
from ftcli.data.formats.json_text import with_json_read
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Scan
from ftcli.methods import get_method
from ftcli.settings.groups import SetSettings
from tests.turns import assistant, user

TALK = [user("hi"), assistant("ho")]


def scanned(path: Path, method: str = "sft", **settings: Any) -> tuple[list[Any], Ledger]:
    ledger = Ledger("data", str(path))
    own = SetSettings(path=str(path), **settings)
    return list(Scan((DataFile(str(path), str(path)),), own, get_method(method), ledger)), ledger


def table(path: Path, *rows: dict[str, Any]) -> Path:
    """The rows as CSV, with everything but text as JSON text."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return path


CASES = {
    "sft": [{"messages": TALK}, {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}],
    "dpo": [
        {"prompt": [user("hi")], "chosen": [assistant("ho")], "rejected": [assistant("no")]},
        {"prompt": [user("hi")], "chosen": assistant("ho"), "rejected": assistant("no")},
        {"chosen": TALK, "rejected": [user("hi"), assistant("no")]},
        {"instruction": "hi", "responses": ["ho", "no"]},
        {"instruction": "hi", "history": [["a", "b"]], "chosen": "ho", "rejected": "no"},
    ],
}


@pytest.mark.parametrize(("method", "row"), [(method, row) for method, rows in CASES.items() for row in rows])
def test_cells_of_json_give_the_row_that_json_gives(tmp_path, method, row):
    plain = tmp_path / "a.jsonl"
    plain.write_text(json.dumps(row))
    wrapped = tmp_path / "b.jsonl"
    wrapped.write_text(json.dumps({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}))
    [[expected], _] = scanned(plain, method)
    for path in (table(tmp_path / "c.csv", row), wrapped):
        [[found], _] = scanned(path, method)
        assert (found.kind, found.value) == (expected.kind, expected.value)


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "[see note]", '{"role": "admin"}', "[]"])
@pytest.mark.parametrize("column", ["prompt", "completion", "chosen", "rejected"])
def test_a_prompt_or_an_answer_that_is_json_of_another_meaning_stays_text(column, text):
    row = Row("rows.csv", 2, {column: text})
    assert with_json_read(row) == row


def test_a_mapped_column_is_read_too(tmp_path):
    [[found], _] = scanned(table(tmp_path / "a.csv", {"talk": TALK}), columns={"messages": "talk"})
    assert found.value["messages"] == TALK


def test_text_that_is_no_json_is_a_fault_of_its_row_under_its_column(tmp_path):
    rows = [{"talk": TALK}, {"talk": '[{"role": "user", "content": "cut'}, {"talk": str(TALK)}]
    _, ledger = scanned(table(tmp_path / "a.csv", *rows), columns={"messages": "talk"})
    [cut, printed] = ledger.errors
    assert (cut["where"], cut["field"]) == (f"{tmp_path}/a.csv:3", "talk")
    assert cut["what"].startswith("talk is text that is not JSON: Unterminated string")
    assert (printed["what"], printed["fix"]) == (
        "talk is a list as Python prints it, not JSON", "write it with json.dumps(…)"
    )  # fmt: skip


def test_a_first_row_that_is_no_json_names_the_remedy(problems, tmp_path):
    path = table(tmp_path / "a.csv", {"messages": str(TALK)})
    [told] = problems("method=sft", f"data.path={path}")
    assert "messages is a list as Python prints it, not JSON" in told
    assert "json.dumps" in told
    with pytest.raises(DataError, match="as Python prints it"):
        scanned(path)


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "null", "NULL", "<NA>", "#N/A"])
def test_a_whole_text_that_stands_for_a_missing_value_is_a_finding(tmp_path, text):
    rows = [
        {"prompt": "hi", "completion": "ho"},
        {"prompt": "hi", "completion": text},
        {"prompt": text, "completion": "x"},
    ]
    _, ledger = scanned(table(tmp_path / "a.csv", *rows))
    assert [(each["where"][-1], each["field"]) for each in ledger.findings["missing value"].first] == [
        ("3", "completion"), ("4", "prompt")
    ]  # fmt: skip
    talks = [[user("hi"), assistant(text)], [user(text), assistant("ho")], [user(f"what is {text}?"), assistant("a")]]
    _, ledger = scanned(table(tmp_path / "b.csv", *({"messages": talk} for talk in talks)))
    assert [each["field"] for each in ledger.findings["missing value"].first] == [
        "messages[1]", "messages[0]"
    ]  # fmt: skip
