"""Counts that add up, the first twenty shown and all counted, and the share of bad rows that stops a run."""

from __future__ import annotations

import pytest

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.row_ledger import MOST_SHOWN, OVERLONG, UNUSABLE, Ledger, refuse_bad_rows, together


def ledger(name: str = "a", *, read: int = 0, bad: int = 0) -> Ledger:
    """A set of `read` rows whose first `bad` are unusable."""
    found = Ledger(name, f"{name}.jsonl", "alpaca")
    for line in range(1, bad + 1):
        found.error(RowProblem(f"{name}.jsonl:{line}", "output is empty", "fill it", field="output"))
    found.rows_read = read
    found.rows_kept = read - bad
    return found


def test_the_first_twenty_faults_are_shown_and_all_are_counted():
    found = ledger(read=100, bad=35).to_dict()
    assert found["dropped"] == {UNUSABLE: 35}
    assert [error["where"] for error in found["errors"]] == [f"a.jsonl:{line}" for line in range(1, 21)]
    assert found["errors"][0] == {"where": "a.jsonl:1", "field": "output", "what": "output is empty", "fix": "fill it"}
    assert MOST_SHOWN == 20


def test_the_first_twenty_findings_of_each_kind_are_shown_and_all_are_counted():
    found = Ledger("a", "a.jsonl")
    for line in range(30):
        found.finding("placeholder", f"a.jsonl:{line}", "output", "{{name}} left")
    found.finding("encoding", "a.jsonl:3", "output", "odd")
    told = found.to_dict()["findings"]
    assert {kind: (each["rows"], len(each["first"])) for kind, each in told.items()} == {
        "placeholder": (30, 20),
        "encoding": (1, 1),
    }


def test_the_sum_of_several_sets_shows_twenty_in_all_and_counts_every_one():
    sets = [ledger("a", read=50, bad=15), ledger("b", read=60, bad=15), ledger("c", read=10)]
    sets[1].format, sets[1].dropped[OVERLONG], sets[1].rows_kept = "text", 5, 40
    whole = together(sets, "train").to_dict()
    assert (whole["rows_read"], whole["rows_kept"]) == (120, 35 + 40 + 10)
    assert whole["dropped"] == {UNUSABLE: 30, OVERLONG: 5}
    assert [error["where"].partition(".")[0] for error in whole["errors"]] == ["a"] * 15 + ["b"] * 5
    assert (whole["format"], whole["path"]) == ("alpaca, text", "a.jsonl, b.jsonl, c.jsonl")
    assert whole["rows_read"] == whole["rows_kept"] + whole["rows_held_out"] + sum(whole["dropped"].values())


@pytest.mark.parametrize(
    ("bad", "share", "stops"),
    [(0, 0.0, False), (1, 0.0, True), (1, 0.01, False), (2, 0.01, True), (100, 1.0, False), (99, 0.98, True)],
)
def test_a_run_stops_where_more_than_the_share_is_unusable(bad, share, stops):
    sets = [ledger(read=100, bad=bad)]
    if not stops:
        refuse_bad_rows(sets, share)
        return
    with pytest.raises(DataError) as caught:
        refuse_bad_rows(sets, share)
    assert caught.value.exit_code == 3


def test_a_refusal_names_the_first_twenty_and_the_share_that_would_do():
    # 30 of 130 rows: 0.2307…, which 0.231 allows and 0.230 does not
    sets = [ledger("a", read=100, bad=25), ledger("b", read=30, bad=5)]
    with pytest.raises(DataError) as caught:
        refuse_bad_rows(sets, 0.1)
    *rows, summary = caught.value.problems
    assert [problem.where for problem in rows] == [f"a.jsonl:{line}" for line in range(1, 21)]
    assert "30 of 130 rows are unusable, of which the first 20 are shown" in summary.what
    assert summary.fix.endswith("data.max_bad_share=0.231")
    refuse_bad_rows(sets, 0.231)
    with pytest.raises(DataError):
        refuse_bad_rows(sets, 0.230)


def test_skipping_is_no_remedy_where_no_row_is_usable():
    with pytest.raises(DataError) as caught:
        refuse_bad_rows([ledger("a", read=30, bad=30)], 0.1)
    assert caught.value.problems[-1].fix == "fix them: no row is usable"


def test_what_was_read_earlier_comes_back_whole_from_its_json():
    first = ledger(read=40, bad=22)
    first.finding("placeholder", "a.jsonl:30", "output", "{{name}} left")
    again = Ledger.from_base(first.to_dict())
    again.rows_kept = first.rows_kept  # what is kept is for the run to say
    assert again == first
    again.error(Problem("a.jsonl:41", "is not JSON"))
    assert again.to_dict()["dropped"] == {UNUSABLE: 23}
    assert len(again.errors) == 20
