"""What holds of every row that a format takes, whatever is written in it."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from ftcli.core.errors import DataError
from ftcli.data.formats.registry import FORMATS, convert, recognise
from ftcli.data.quality_checks import quality_issues
from tests.turns import GPT_SAYS, HUMAN_ASKS, TOOL, assistant, at, user

WORDS = st.text(string.ascii_letters + string.punctuation + " \n\té🐈", min_size=1, max_size=20).filter(str.strip)
ROLES_IN_USE = st.sampled_from(["user", "assistant", "human", "gpt", "tool", "observation", "system", "Assistant"])
TURN = st.builds(lambda role, content: {"role": role, "content": content}, ROLES_IN_USE, WORDS)
FROM = st.builds(lambda role, content: {"from": role, "value": content}, ROLES_IN_USE, WORDS)


def ending_in(strategy: st.SearchStrategy, last: dict) -> st.SearchStrategy:
    return st.lists(strategy, max_size=4).map(lambda turns: [*turns, last])


def rows_of(**columns: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(columns, optional={"id": st.integers(), "source": WORDS})


ANSWER = WORDS.map(assistant)
RANDOM_ROWS = st.one_of(
    rows_of(text=WORDS),
    rows_of(prompt=WORDS, completion=WORDS),
    rows_of(prompt=ending_in(TURN, user("?")), completion=WORDS | ANSWER),
    rows_of(question=WORDS, answer=WORDS),
    rows_of(instruction=WORDS, input=WORDS | st.just(""), output=WORDS, system=WORDS | st.none()),
    rows_of(messages=ending_in(TURN, assistant("!"))),
    rows_of(conversations=ending_in(FROM, GPT_SAYS), tools=st.just([TOOL]) | st.just("")),
    rows_of(prompt=WORDS, chosen=WORDS, rejected=WORDS),
    rows_of(prompt=WORDS, chosen=ANSWER, rejected=ANSWER),
    rows_of(conversations=ending_in(FROM, HUMAN_ASKS), chosen=ANSWER, rejected=WORDS),
    rows_of(instruction=WORDS, chosen=WORDS, rejected=WORDS),
    rows_of(prompt=WORDS, completion=WORDS, label=st.booleans()),
    rows_of(messages=ending_in(TURN, user("?")).map(lambda t: [*t, assistant("!")]), label=st.booleans()),
    rows_of(prompt=WORDS | ending_in(FROM, HUMAN_ASKS), solution=WORDS),
    rows_of(prompt=WORDS, responses=st.lists(WORDS, min_size=2, max_size=4), ranks=st.just([1, 2, 3, 4])).map(
        lambda row: {**row, "ranks": row["ranks"][: len(row["responses"])]}
    ),
    rows_of(instruction=WORDS, answers=st.lists(WORDS | ANSWER, min_size=2, max_size=4)),
)


@given(RANDOM_ROWS)
def test_converting_twice_changes_nothing_more(row):
    fmt = recognise(row)
    assert fmt is not None
    example = convert(fmt, at(row))
    again = recognise(example)
    assert again is not None
    assert again.kind == fmt.kind
    assert convert(again, at(example)) == example


@given(RANDOM_ROWS)
def test_findings_name_fields_of_the_row_whatever_its_format(row):
    fmt = recognise(row)
    assert fmt is not None
    for found in quality_issues(fmt, row, convert(fmt, at(row))):
        value = row
        for step in found.field.replace("[", ".").replace("]", "").split("."):
            value = value[int(step)] if step.isdigit() else value[step]


@given(WORDS, WORDS, WORDS)
def test_parting_two_texts_loses_no_character(begin, one, two):
    row = {"chosen": f"{begin} x {one}", "rejected": f"{begin} x {two}"}
    try:
        example = convert(FORMATS["preference_text"], at(row))
    except DataError:
        return
    assert example["prompt"] + example["chosen"] == row["chosen"]
    assert example["prompt"] + example["rejected"] == row["rejected"]


@given(st.lists(st.tuples(WORDS, st.sampled_from([None, 0, 1, False, True, 0.5, 3])), min_size=1, max_size=5))
def test_a_turn_weighs_what_it_says_and_else_1(turns):
    messages = [{**assistant(content), "weight": weight} for content, weight in turns]
    example = convert(FORMATS["messages"], at({"messages": [user("?"), *messages, assistant("!")]}))
    found = [turn.get("weight", 1) for turn in example["messages"][1:-1]]
    assert found == [1 if weight is None else float(weight) for _, weight in turns]
