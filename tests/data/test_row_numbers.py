"""The weight of a row: read beside every format under every method that takes it, and an error anywhere else."""

from __future__ import annotations

import math

import pytest

from ftcli.data.formats.columns import WEIGHTS
from ftcli.data.row_ledger import DUPLICATE, UNREAD
from ftcli.methods import all_methods
from tests.data.formats.test_planted_columns import PAIRS, ROWS, scanned
from tests.turns import assistant, user


@pytest.mark.parametrize(("name", "method"), [(name, method.name) for name, method in PAIRS])
def test_a_row_weighs_what_it_says_under_every_method(tmp_path, name, method):
    rows = [{**ROWS[name], column: 0.5} for column in WEIGHTS] + [{**ROWS[name], "weight": 1}, ROWS[name]]
    found, ledger = scanned(tmp_path, rows, method)
    declared = all_methods()[method]
    assert UNREAD not in ledger.findings
    if declared.weights:
        assert [example.row_weight for example in found] == [0.5] * len(WEIGHTS) + [1, 1]
        # What a row weighs is not what it says: all are the same row.
        assert ledger.findings[DUPLICATE].rows == len(rows) - 1
    elif declared.rewarded:  # the rewards read all columns
        assert [example.row_weight for example in found] == [1.0] * len(rows)
        assert found[0].value["weight"] == 0.5
    else:
        assert len(found) == 2
        assert ledger.errors[0]["what"] == f"weight is 0.5, and {method} weighs all rows the same"
        able = ", ".join(other.name for other in all_methods().values() if other.weights)
        assert ledger.errors[0]["fix"].endswith(f"or use a method that weighs rows: {able}")


def test_the_methods_that_weigh_rows():
    weighs = {method.name for method in all_methods().values() if method.weights}
    assert weighs == {"sft", "instruct", "pretrain", "dpo", "ipo", "kto", "orpo", "cpo", "simpo", "reward"}
    assert {m.name for m in all_methods().values() if not (m.weights or m.rewarded)} == {"distillation"}


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "heavy", True, [1]])
def test_another_weight_than_a_number_above_0_is_an_error_of_its_row(tmp_path, value):
    found, ledger = scanned(tmp_path, [{**ROWS["messages"], "weight": value}], "sft")
    assert found == []
    assert ledger.errors[0]["what"].startswith("weight is ")
    assert ledger.errors[0]["what"].endswith(", not a number above 0")
    assert ledger.errors[0]["field"] == "weight"


@pytest.mark.parametrize(("given", "weight"), [("0.25", 0.25), ("", 1.0), (None, 1.0), (2, 2.0)])
def test_a_weight_may_be_text_as_in_csv_and_empty_for_1(tmp_path, given, weight):
    [example], _ = scanned(tmp_path, [{**ROWS["messages"], "weight": given}], "sft")
    assert example.row_weight == weight


def test_two_columns_have_to_agree(tmp_path):
    rows = [{**ROWS["messages"], "weight": 2, "sample_weight": other} for other in (2, 3)]
    [example], ledger = scanned(tmp_path, rows, "sft")
    assert example.row_weight == 2
    assert ledger.errors[0]["what"] == "the row has different weights in weight and sample_weight"


def test_a_mapped_column_is_a_weight_and_is_named_as_in_the_file(tmp_path):
    rows = [{**ROWS["messages"], "importance": value} for value in (3, -3)]
    [example], ledger = scanned(tmp_path, rows, "sft", columns={"weight": "importance"})
    assert example.row_weight == 3
    assert ledger.errors[0]["what"] == "importance is the number -3, not a number above 0"


def test_a_turn_of_a_pair_may_weigh_and_one_of_a_compared_answer_may_not(tmp_path):
    pair = {"prompt": [user("2 + 2?")], "completion": [assistant("4", weight=0.5)]}
    [example], _ = scanned(tmp_path, [pair], "sft")
    assert example.value["completion"][0]["weight"] == 0.5
    _, ledger = scanned(tmp_path, [{**pair, "label": True}], "kto")
    assert ledger.errors[0]["what"] == "completion[0] weighs 0.5, and only whole answers are compared"


def test_only_the_last_turn_keeps_its_weight_where_only_it_is_trained(tmp_path):
    turns = [user("1?"), assistant("1", weight=2), user("2?"), assistant("2", weight=0.5), user("3?")]
    row = {"messages": [*turns, assistant("3", weight=0)]}
    [example], _ = scanned(tmp_path, [row], "sft", trained_turns="last")
    assert [turn.get("weight", 1) for turn in example.value["messages"]] == [1, 0, 1, 0.5, 1, 0]


def test_a_weight_on_another_turn_than_the_assistants_is_a_finding(tmp_path):
    row = {"messages": [user("1?", weight=0.5), assistant("1")]}
    _, ledger = scanned(tmp_path, [row], "sft")
    assert [one["field"] for one in ledger.shown("weight")] == ["messages[0].weight"]
