"""Which format a set has: its first rows decide together, and a row that says more than its set is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import DataError
from ftcli.data.set_format import SAMPLE_ROWS
from tests.data.test_scan import scanned, write
from tests.turns import assistant, user


def pair(index: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"{index}?", "completion": f"{index}.", **more}


def preference(index: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"{index}?", "chosen": f"{index}.", "rejected": "no", **more}


def test_a_first_row_without_its_label_does_not_make_the_set_one_to_imitate(tmp_path):
    rows = [pair(0, label=None), *(pair(index, label=index % 2 == 0) for index in range(1, 10))]
    path = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(DataError, match="holds labelled completions"):
        scanned(path, "sft")
    found, ledger = scanned(path, "kto")
    assert (len(found), ledger.format) == (9, "labelled")
    assert [(error["where"], error["what"]) for error in ledger.errors] == [(f"{path}:1", "label is null")]


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_row_without_its_rejected_answer_is_a_bad_row_wherever_it_is(tmp_path, place):
    rows = [preference(index, **({"rejected": None} if index == place else {})) for index in range(6)]
    path = write(tmp_path / "rows.jsonl", *rows)
    found, ledger = scanned(path, "dpo")
    assert (len(found), ledger.format, ledger.rows_bad) == (5, "preference_text", 1)
    assert (ledger.errors[0]["where"], ledger.errors[0]["what"]) == (f"{path}:{place + 1}", "rejected is null")


def test_of_two_formats_with_as_many_rows_the_more_specific_is_the_sets(tmp_path):
    path = write(tmp_path / "rows.jsonl", pair(0, label=None), pair(1, label=False))
    assert scanned(path, "kto")[1].format == "labelled"


MORE_SPECIFIC = [
    ("sft", "prompt_completion", pair, {"label": False}, "labelled"),
    ("sft", "prompt_completion", pair, {"is_good": "no"}, "labelled"),
    ("sft", "prompt_completion", pair, {"rejected": "no"}, "pair_rejected"),
    ("sft", "messages", lambda i: {"messages": [user(f"{i}?"), assistant("b")]}, {"label": 0}, "labelled_messages"),
    (
        "sft",
        "messages",
        lambda i: {"messages": [user(f"{i}?"), assistant("b")]},
        {"rejected": "c"},
        "messages_rejected",
    ),
    ("sft", "alpaca", lambda i: {"instruction": f"{i}?", "output": "b"}, {"kto_tag": "bad"}, "labelled_alpaca"),
    ("sft", "query_response", lambda i: {"query": f"{i}?", "response": "b"}, {"label": 1}, "labelled_query_response"),
    ("grpo", "prompt", lambda i: {"prompt": f"{i}?", "solution": 4}, {"completion": "b"}, "prompt_completion"),
    ("grpo", "prompt", lambda i: {"prompt": f"{i}?"}, {"chosen": "b", "rejected": "c"}, "preference_text"),
]


@pytest.mark.parametrize(("method", "name", "row", "more", "other"), MORE_SPECIFIC)
def test_a_row_that_says_more_than_its_set_is_an_error_that_names_both_formats(
    tmp_path, method, name, row, more, other
):
    rows = [*map(row, range(5)), {**row(5), **more}, row(6)]
    path = write(tmp_path / "rows.jsonl", *rows)
    found, ledger = scanned(path, method)
    assert (len(found), ledger.format, ledger.rows_bad) == (6, name, 1)
    error = ledger.errors[0]
    assert error["where"] == f"{path}:6"
    assert error["what"] == f"the row is of format {other}, but the set is of format {name}"
    assert f"data.format={name}" in error["fix"]
    assert all(column in error["fix"] for column in more)
    # named, the format is what the user says
    found, ledger = scanned(path, method, format=name)
    assert (len(found), ledger.rows_bad) == (7, 0)
    if method == "sft":
        assert dict(ledger.unread) == dict.fromkeys(more, 1)


def test_a_late_row_that_says_more_is_found_too(tmp_path):
    rows = [*map(pair, range(SAMPLE_ROWS)), pair(SAMPLE_ROWS, label=False)]
    _, ledger = scanned(write(tmp_path / "rows.jsonl", *rows), "sft")
    assert (ledger.format, ledger.rows_bad) == ("prompt_completion", 1)


def test_the_first_rows_are_read_within_max_rows(tmp_path):
    # of the first three two are pairs; the labels begin behind them
    rows = [pair(0), pair(1), "not json", *(pair(index, label=True) for index in range(2, 9))]
    path = write(tmp_path / "rows.jsonl", *rows)
    found, ledger = scanned(path, "sft", max_rows=3)
    assert (len(found), ledger.rows_bad, ledger.format) == (2, 1, "prompt_completion")


def test_bad_rows_among_the_first_are_reported_in_their_order(tmp_path):
    rows = [pair(0), "not json", pair(1, completion=""), "not json", pair(2)]
    path = write(tmp_path / "rows.jsonl", *rows)
    _, ledger = scanned(path, "sft")
    assert [error["where"] for error in ledger.errors] == [f"{path}:{line}" for line in (2, 3, 4)]


def test_rows_before_the_place_where_a_file_breaks_are_still_given(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([pair(0), pair(1)], indent=1)[:-1] + ", }", encoding="utf-8")
    found, ledger = scanned(path, "sft", max_usable=2)
    assert (len(found), ledger.rows_bad) == (2, 0)
    with pytest.raises(DataError, match="is not JSON"):
        scanned(path, "sft")


def test_a_mapped_column_may_be_missing_in_the_first_row(tmp_path):
    rows = [{"a": "x"}, *({"q": f"{index}?", "a": "b"} for index in range(3))]
    path: Path = write(tmp_path / "rows.jsonl", *rows)
    found, ledger = scanned(path, "sft", columns={"prompt": "q", "completion": "a"})
    assert (len(found), ledger.format) == (3, "prompt_completion")
    assert [error["what"] for error in ledger.errors] == ["has no column 'q' to map; its columns are a"]
