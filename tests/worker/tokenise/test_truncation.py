"""Rows that are too long: what is cut, what stays, and when an end token is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.tokenise.truncation import loses_end, parts_of, trains

FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None)
BOS = 7_000


def row(asked: int, answered: int, *, bos: bool = False, behind: int = 0) -> dict[str, list[int]]:
    """A prompt of `asked` tokens, an answer, and tokens behind it that are not trained; no token occurs twice."""
    ids = list(range(1, asked + answered + behind + 1))
    labels = [IGNORED] * asked + ids[asked : asked + answered] + [IGNORED] * behind
    return {"input_ids": [BOS, *ids], "labels": [IGNORED, *labels]} if bos else {"input_ids": ids, "labels": labels}


def document(length: int) -> dict[str, list[int]]:
    return row(0, length)


def pair(asked: int, chosen: int, rejected: int, *, bos: bool = False) -> dict[str, list[int]]:
    prompt = [BOS] * bos + list(range(asked))
    return {"prompt_ids": prompt, "chosen_ids": list(range(100, 100 + chosen)), "rejected_ids": list(range(rejected))}


def trained(part: dict[str, list[int]]) -> list[int]:
    return [label for label in part["labels"] if label != IGNORED]


@FEW
@given(asked=st.integers(1, 30), answered=st.integers(1, 10), limit=st.integers(11, 20), bos=st.booleans())
def test_cutting_the_left_keeps_the_answer_and_the_first_token(asked, answered, limit, bos):
    given_row = row(asked, answered, bos=bos)
    length = len(given_row["input_ids"])
    if length <= limit:
        return
    [part] = parts_of(given_row, limit, "truncate_left", BOS)
    assert trained(part) == trained(given_row)
    assert len(part["input_ids"]) == len(part["labels"]) == limit
    kept = given_row["input_ids"][length - limit + bos :]  # BOS takes the place of one more
    assert part["input_ids"] == [BOS] * bos + kept
    assert not loses_end(given_row, limit, "truncate_left")


def test_a_first_token_that_is_no_bos_is_cut_like_any_other():
    [part] = parts_of(row(4, 2), 4, "truncate_left", BOS)
    assert part == {"input_ids": [3, 4, 5, 6], "labels": [IGNORED, IGNORED, 5, 6]}
    [part] = parts_of(row(4, 2, bos=True), 4, "truncate_left", None)
    assert part["input_ids"] == [3, 4, 5, 6]


@FEW
@given(asked=st.integers(0, 12), answered=st.integers(1, 12), behind=st.integers(0, 3), limit=st.integers(1, 20))
def test_cutting_the_right_tells_exactly_when_the_end_is_lost(asked, answered, behind, limit):
    given_row = row(asked, answered, behind=behind)
    if len(given_row["input_ids"]) <= limit:
        return
    # The end token is the last of the answer: number asked + answered, counted from one.
    assert loses_end(given_row, limit, "truncate_right") == (asked + answered > limit)
    parts = parts_of(given_row, limit, "truncate_right")
    # A trained token needs one before it: the answer's first counts where a prompt stands before it.
    assert bool(parts) == (limit > max(asked, 1))
    for part in parts:
        assert part["input_ids"] == given_row["input_ids"][:limit]
        assert part["labels"] == given_row["labels"][:limit]


@FEW
@given(length=st.integers(2, 80), limit=st.integers(3, 20))
def test_splitting_a_document_loses_no_token(length, limit):
    parts = parts_of(document(length), limit, "split")
    assert [token for part in parts for token in part["input_ids"]] == list(range(1, length + 1))
    assert all(part["labels"] == part["input_ids"] for part in parts)
    assert all(2 <= len(part["input_ids"]) <= limit for part in parts)
    assert len(parts) == -(-length // limit)
    assert not loses_end(document(length), limit, "split")


def test_a_last_token_that_would_stand_alone_takes_its_neighbour_along():
    # 9 in parts of 4 would be 4, 4, 1: of one token nothing is predicted
    assert [part["input_ids"] for part in parts_of(document(9), 4, "split")] == [[1, 2, 3, 4], [5, 6, 7], [8, 9]]


@FEW
@given(asked=st.integers(0, 30), answered=st.integers(1, 30), limit=st.integers(3, 12))
def test_splitting_a_conversation_drops_only_parts_without_a_target(asked, answered, limit):
    given_row = row(asked, answered)
    parts = parts_of(given_row, limit, "split")
    left = [token for part in parts for token in part["input_ids"]]
    assert left == sorted(set(left))
    dropped = sorted(set(trained(given_row)) - set(left))
    # At most one trained token is lost: the first of a part, which is predicted from nothing.
    assert len(dropped) <= 1
    assert all(trains(part) for part in parts)


@FEW
@given(asked=st.integers(1, 30), chosen=st.integers(1, 9), rejected=st.integers(1, 9), bos=st.booleans())
def test_a_pair_cut_on_the_left_keeps_both_answers_behind_one_prompt(asked, chosen, rejected, bos):
    given_pair = pair(asked, chosen, rejected, bos=bos)
    longest = max(chosen, rejected)
    if asked + bos + longest <= 12:
        return
    [part] = parts_of(given_pair, 12, "truncate_left", BOS)
    assert (part["chosen_ids"], part["rejected_ids"]) == (given_pair["chosen_ids"], given_pair["rejected_ids"])
    room = 12 - longest
    assert part["prompt_ids"] == [BOS] * bos + given_pair["prompt_ids"][asked + bos - room + bos :]
    assert len(part["prompt_ids"]) == room


def test_a_pair_whose_answer_alone_is_too_long_is_left_out_on_the_left():
    assert parts_of(pair(3, 12, 2), 12, "truncate_left") == []
    [part] = parts_of(pair(3, 11, 2, bos=True), 12, "truncate_left", BOS)
    assert part["prompt_ids"] == [2]  # one place: the prompt's end says more than its beginning


@FEW
@given(asked=st.integers(1, 15), chosen=st.integers(1, 9), rejected=st.integers(1, 9), limit=st.integers(2, 16))
def test_a_pair_cut_on_the_right_tells_when_an_answer_loses_its_end(asked, chosen, rejected, limit):
    given_pair: dict[str, Any] = pair(asked, chosen, rejected)
    assert loses_end(given_pair, limit, "truncate_right") == (asked + max(chosen, rejected) > limit)
    parts = parts_of(given_pair, limit, "truncate_right")
    assert len(parts) == (asked < limit)
    for part in parts:
        assert part["prompt_ids"] == given_pair["prompt_ids"]
        assert part["chosen_ids"] == given_pair["chosen_ids"][: limit - asked]
        assert part["rejected_ids"] == given_pair["rejected_ids"][: limit - asked]


@pytest.mark.parametrize("overflow", ["truncate_left", "truncate_right", "split"])
def test_a_row_is_not_changed_by_being_cut(overflow):
    given_row = row(6, 6)
    parts_of(given_row, 4, overflow, BOS)
    assert given_row == row(6, 6)
