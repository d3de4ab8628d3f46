"""Every fault and finding in a set of rows, each under its place and the name that its field has in the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import DataError, Problem
from ftcli.data.files.locate import SourcePath, locate
from ftcli.data.row_ledger import Ledger
from ftcli.data.scan import Example, Scan
from ftcli.methods import get_method
from ftcli.settings.groups import SetSettings
from tests.faults import NUM_ROWS, as_planted, as_told, clean_row, errors, findings, plant


def scanned(path: Path | str, method: str = "sft", **how: Any) -> tuple[list[Example], Ledger]:
    """The usable rows and the ledger; what is not of a Scan goes to the set's settings."""
    scan_how = {key: how.pop(key) for key in ("group", "max_rows", "max_usable", "on_error") if key in how}
    files = locate(SourcePath(path=str(path)), "data.path", fetch=False)
    assert files is not None
    ledger = Ledger("data", str(path))
    settings = SetSettings(path=str(path), **how)
    return list(Scan(files, settings, get_method(method), ledger, **scan_how)), ledger


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def alpaca(index: int, output: Any = None) -> dict[str, Any]:
    return {"instruction": f"Add {index} and 1.", "output": f"{index + 1}" if output is None else output}


@pytest.mark.parametrize("column", ["messages", "talk"])
def test_each_planted_fault_is_told_once_under_its_line_and_field(tmp_path, column):
    planted = plant(tmp_path / "rows.jsonl", column)
    mapping = {"messages": column} if column != "messages" else None
    usable, ledger = scanned(planted.path, columns=mapping)
    told = ledger.to_dict()
    assert as_told(told) == as_planted(planted, column)
    bad = len(errors(column))
    assert bad + len(findings(column)) + 1 == 17
    assert (told["rows_read"], told["dropped"], len(usable)) == (NUM_ROWS, {"unusable": bad}, NUM_ROWS - bad)
    said = {each["where"]: each["what"] for each in told["errors"]}
    said |= {each["where"]: each["what"] for found in told["findings"].values() for each in found["first"]}
    for fault in (*errors(column), *findings(column)):
        assert fault.what in said[f"{planted.path}:{planted.lines[fault.name]}"], fault.name


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_faults_are_found_wherever_they_stand(tmp_path, seed):
    planted = plant(tmp_path / "rows.jsonl", seed=seed)
    assert as_told(scanned(planted.path)[1].to_dict()) == as_planted(planted)


def test_a_thousand_clean_rows_tell_nothing(tmp_path):
    usable, ledger = scanned(write(tmp_path / "rows.jsonl", *map(clean_row, range(NUM_ROWS))))
    assert (len(usable), ledger.errors, ledger.findings) == (NUM_ROWS, [], {})


def test_a_renamed_column_is_told_by_its_own_name(tmp_path):
    rows = [{"ask": "a", "reply": "b"}, {"ask": "c", "reply": ""}, {"ask": "{{d}}", "reply": "e"}, {"reply": "f"}]
    _, ledger = scanned(write(tmp_path / "rows.jsonl", *rows), columns={"instruction": "ask", "output": "reply"})
    assert [(error["field"], error["what"][:14]) for error in ledger.errors] == [
        ("reply", "reply is empty"),
        ("ask", "has no column "),
    ]
    assert [each["field"] for each in ledger.findings["placeholder"].first] == ["ask"]


def test_a_row_without_the_column_to_group_by_is_unusable(tmp_path):
    rows = [{**alpaca(0), "user": 1}, alpaca(1), {**alpaca(2), "user": 2}, {**alpaca(3), "user": 1}]
    usable, ledger = scanned(write(tmp_path / "rows.jsonl", *rows), group="user")
    assert [error["field"] for error in ledger.errors] == ["user"]
    first, other, again = (example.group for example in usable)
    assert first == again != other


def test_a_group_is_a_column_of_the_file_whatever_else_is_renamed(tmp_path):
    rows = [{"q": f"{index}?", "output": "b", "user": index % 2} for index in range(4)]
    usable, _ = scanned(write(tmp_path / "rows.jsonl", *rows), group="user", columns={"instruction": "q"})
    assert [example.group == usable[0].group for example in usable] == [True, False, True, False]


# --- how much is looked at --------------------------------------------------------------------------------------------


def test_max_rows_counts_unusable_rows_too(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(0), "not json", alpaca(2, ""), alpaca(3), alpaca(4))
    for most, good, bad in [(1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 2, 2), (5, 3, 2), (9, 3, 2)]:
        usable, ledger = scanned(path, max_rows=most)
        assert (len(usable), ledger.rows_bad, ledger.rows_read) == (good, bad, good + bad)


def test_no_more_than_max_rows_are_read_of_a_file_that_goes_bad(tmp_path):
    told: list[Problem] = []
    path = write(tmp_path / "rows.jsonl", alpaca(0), *["not json"] * 1000)
    _, ledger = scanned(path, max_rows=10, on_error=told.append)
    assert (ledger.rows_read, len(told)) == (10, 9)


def test_a_sample_ends_with_its_last_usable_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", alpaca(0), "not json", alpaca(2), "not json")
    usable, ledger = scanned(path, max_usable=2)
    assert (len(usable), ledger.rows_bad) == (2, 1)


def test_rows_behind_the_last_good_one_are_counted_too(tmp_path):
    _, ledger = scanned(write(tmp_path / "rows.jsonl", alpaca(0), "not json", "not json"))
    assert ledger.rows_bad == 2
    assert ledger.rows_read == 3


# --- rows that occur twice --------------------------------------------------------------------------------------------


def test_a_row_that_occurs_again_is_told_with_the_first_place(tmp_path):
    write(tmp_path / "a.jsonl", alpaca(0), alpaca(1))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(alpaca(index)) + "\n" for index in (2, 1, 3, 1)))
    _, ledger = scanned(tmp_path)
    [first, second] = ledger.findings["duplicate"].first
    assert (first["where"], second["where"]) == (f"{tmp_path}/b.jsonl.gz:2", f"{tmp_path}/b.jsonl.gz:4")
    assert first["what"] == second["what"] == f"is the same as {tmp_path}/a.jsonl:2"


def test_rows_are_the_same_by_what_is_read_of_them_alone(tmp_path):
    rows = [{**alpaca(0), "id": 1}, {"id": 2, **dict(reversed(alpaca(0).items()))}, {**alpaca(0), "input": "now"}]
    usable, ledger = scanned(write(tmp_path / "rows.jsonl", *rows))
    assert ledger.findings["duplicate"].rows == 1
    assert usable[0].digest == usable[1].digest != usable[2].digest


def test_one_prompt_with_two_answers_is_known_by_its_prompt(tmp_path):
    usable, ledger = scanned(write(tmp_path / "rows.jsonl", alpaca(0), alpaca(0, "Two"), alpaca(1)))
    assert "duplicate" not in ledger.findings
    assert usable[0].asked == usable[1].asked != usable[2].asked
    assert usable[0].digest != usable[1].digest


def test_text_has_no_prompt(tmp_path):
    usable, _ = scanned(write(tmp_path / "rows.jsonl", {"text": "one"}, {"text": "two"}))
    assert [example.asked for example in usable] == [0, 0]


# --- what stops at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "how", "reason"),
    [
        ([{"foo": 1}], {}, "match no supported format"),
        ([{"text": "a"}], {"method": "instruct"}, "this data set holds plain text"),
        ([{"text": "a"}], {"format": "alpaca"}, "does not match format alpaca: no column instruction"),
        ([{"text": "a"}], {"columns": {"text": "txt"}}, "has no column 'txt' to map"),
    ],
)
def test_a_set_whose_first_row_is_not_understood_stops_with_its_place(tmp_path, rows, how, reason):
    path = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(DataError, match=reason) as caught:
        scanned(path, **how)
    assert caught.value.problems[0].where == f"{path}:1"
