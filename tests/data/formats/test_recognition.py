"""Which format a row is of, what its kind may become, and what is told where no format fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcli.core.errors import DataError
from ftcli.data.formats.conversations import FieldFault
from ftcli.data.formats.registry import (
    DATASET_TYPES,
    FORMATS,
    apply_mapping,
    candidates,
    columns_error,
    convert,
    convert_type,
    converted_type,
    dataset_type_problem,
    recognise,
)
from tests.turns import assistant, at, user


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "a", "completion": "b", "completions": ["b", "c"]}, "prompt_completion"),
        ({"instruction": "a", "output": "b", "responses": ["b", "c"], "scores": [1, 2]}, "alpaca"),
        ({"question": "a", "answer": "b", "answers": ["b", "c"]}, "query_response"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "candidates": ["b", "c"]}, "preference_text"),
        ({"messages": [user("a"), assistant("b")], "responses": ["b", "c"]}, "messages"),
        ({"messages": [user("a"), assistant("b")], "label": True, "responses": ["b", "c"]}, "labelled_messages"),
        ({"text": "a", "prompt": "b", "outputs": ["c", "d"]}, "text"),
        # the right answers, for whoever scores: no ranking unless ranks say so
        ({"prompt": "a", "answers": ["4", "four"], "difficulty": 3}, "prompt"),
        ({"prompt": "a", "completions": ["b"]}, "prompt"),
        ({"prompt": "a", "outputs": [1, 2]}, "prompt"),
    ],
)
def test_a_list_of_answers_takes_no_row_from_another_format(row, name):
    assert recognise(row) is FORMATS[name]


def test_why_a_list_of_answers_is_no_ranking_is_told():
    row = {"prompt": "a", "answers": ["4", "four"], "difficulty": 3}
    (what,) = FORMATS["ranked"].faults(row)
    assert what == "answers has no ranks or scores, and the row has further columns: difficulty"
    # named, it is taken at its word
    assert convert(FORMATS["ranked"], at(row)) == {"prompt": "a", "chosen": "4", "rejected": "four"}


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=6).filter(lambda scores: min(scores) < max(scores)))
def test_scores_and_the_ranks_that_follow_from_them_choose_alike(scores):
    # The best score has rank 1; equal scores share a rank.
    ranks = [1 + sum(other > score for other in scores) for score in scores]
    texts = [f"answer {index}" for index in range(len(scores))]
    rows = [
        {"prompt": "q", "responses": texts, "scores": scores},
        {"prompt": "q", "responses": texts, "ranks": ranks},
        {"prompt": "q", "responses": [{"text": t, "score": s} for t, s in zip(texts, scores, strict=True)]},
        {"prompt": "q", "responses": [{"text": t, "rank": r} for t, r in zip(texts, ranks, strict=True)]},
    ]
    made = [convert(FORMATS["ranked"], at(row)) for row in rows]
    assert all(example == made[0] for example in made)
    assert scores[texts.index(made[0]["chosen"])] == max(scores)
    assert scores[texts.index(made[0]["rejected"])] == min(scores)


def test_a_judged_set_is_never_mistaken_for_one_to_imitate():
    row = {"messages": [user("a"), assistant("b")], "label": False}
    assert [fmt.name for fmt in candidates(row)] == ["labelled_messages", "messages"]
    problem = dataset_type_problem(
        FORMATS["labelled_messages"], row, "data.path=x", ("text", "pair", "messages"), "sft"
    )
    assert problem is not None
    assert (
        problem.what == "this data set holds labelled completions (format labelled_messages); "
        "sft needs plain text or prompt-completion pairs or messages"
    )
    assert "set data.format, since the columns also match messages" in problem.fix
    with pytest.raises(FieldFault, match="without loss"):
        convert_type(convert(FORMATS["labelled_messages"], at(row)), "label", ("pair",))


def test_a_pair_becomes_messages_where_only_those_are_taken():
    assert (converted_type("pair", ("pair", "messages")), converted_type("pair", ("messages",))) == ("pair", "messages")
    assert converted_type("pair", ("text",)) is None
    row = at({"prompt": "a", "completion": "b"})
    assert convert(FORMATS["prompt_completion"], row, wanted=("messages",)) == {"messages": [user("a"), assistant("b")]}
    row = at({"instruction": "c", "output": "d", "history": [["a", "b"]]})
    with pytest.raises(DataError, match=r"rows\.jsonl:17.*earlier answers that would be trained too"):
        convert(FORMATS["alpaca"], row, wanted=("messages",))


@pytest.mark.parametrize("kind", DATASET_TYPES)
def test_only_pairs_become_something_else(kind):
    reachable = {wanted for wanted in DATASET_TYPES if converted_type(kind, (wanted,))}
    assert reachable == ({"pair", "messages"} if kind == "pair" else {kind})


def test_unknown_columns_are_refused_with_the_nearest_formats_first():
    row = {"instructions": "a", "output": "b", "n": 3}
    assert recognise(row) is None
    problem = columns_error(row, "data.path=rows.jsonl")
    assert problem.where == "data.path=rows.jsonl"
    nearest = "The nearest are alpaca (no column instruction (there is 'instructions')), "
    assert problem.what.startswith(f"the columns match no supported format. {nearest}")
    assert problem.what.endswith(". The columns are instructions (text), output (text), n (a number)")
    assert problem.what in str(problem), "told as it was meant, on one line"


def test_a_column_of_the_wrong_type_is_refused_with_what_it_holds():
    assert (
        "prompt_completion (completion is the number 4, not text or turns)"
        in columns_error({"prompt": "a", "completion": 4, "text": None}, "").what
    )
    assert recognise({"messages": ["a", "b"]}) is None
    assert "messages is a list of 2, not a list of {role, content}" in columns_error({"messages": ["a", "b"]}, "").what


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"segments": [{"label": True, "text": "a"}]}, "segments of text with a label each (Axolotl's input_output)"),
        ({"question": "a", "completions": ["b"], "labels": [True]}, "steps with a label each (TRL's stepwise"),
    ],
)
def test_rows_of_other_tools_without_a_format_are_refused_by_their_name(row, what):
    assert recognise(row) is None
    problem = columns_error(row, "rows.jsonl:1")
    assert what in problem.what
    assert problem.fix


def test_columns_with_nothing_known_list_formats_all_the_same():
    what = columns_error({"zzz": 1}, "").what
    assert "The nearest are messages (" in what
    assert what.endswith("text (no column text). The columns are zzz (a number)")


def test_a_null_column_is_as_good_as_none():
    # how parquet writes rows of two formats into one table
    assert recognise({"messages": None, "text": "a", "label": None}) is FORMATS["text"]


def test_columns_that_a_format_does_not_read_are_known():
    assert FORMATS["query_response"].unread({"question": "a", "answer": "b", "context": "c"}) == ["context"]
    assert FORMATS["prompt"].unread({"prompt": "a", "solution": None, "images": []}) == []


def test_mapping_renames_columns():
    row = at({"q": "a", "a": "b", "text": "old"})
    assert apply_mapping(row, {"question": "q", "answer": "a"}).value == {"text": "old", "question": "a", "answer": "b"}
    assert apply_mapping(row, {"q": "a", "a": "q"}).value == {"text": "old", "q": "b", "a": "a"}
    assert apply_mapping(row, {"text": "q"}).value == {"a": "b", "text": "a"}
    assert apply_mapping(row, {}) is row


def test_mapping_to_a_missing_column_lists_the_columns():
    with pytest.raises(DataError) as caught:
        apply_mapping(at({"query": "a", "reply": "b"}), {"prompt": "query", "completion": "replies"})
    (problem,) = caught.value.problems
    assert problem.where == "rows.jsonl:17"
    assert problem.what == "has no column 'replies' to map; its columns are query, reply"
    assert problem.fix == "did you mean reply?"


def test_a_need_is_met_where_it_has_no_fault():
    turn, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}
    ranked = [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]
    values = [None, "a", "", 1, True, "good", "maybe", turn, [], [turn], [said], ["a", "b"], ranked]
    further = [{}, {"prompt": "q"}, {"prompt": "q", "ranks": [1, 2]}, {"prompt": "q", "id": 1, "more": 2}]
    for need in {need for fmt in FORMATS.values() for need in fmt.needs}:
        names = (*need.names, "thumbs_up")
        rows = [{name: value, **beside} for name in names for value in values for beside in further]
        assert [row for row in rows if need.met(row) == bool(need.fault(row))] == []
