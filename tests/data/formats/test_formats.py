"""Every format is recognised by its columns and becomes the right example."""

from __future__ import annotations

import json

import pytest

from ftcli.core.errors import DataError
from ftcli.data.formats.registry import DATASET_TYPES, FORMATS, convert, recognise
from tests.turns import ADD, GPT_SAYS, HUMAN_ASKS, TOOL, assistant, at, system, user

# format, row, example
ROUND_TRIPS = [
    ("text", {"text": "Once.", "id": 3}, {"text": "Once."}),
    ("prompt_completion", {"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "2 + 2 =", "completion": " 4"}),
    (
        "prompt_completion",
        {"prompt": [system("Add."), user("2 + 2?")], "completion": "4"},
        {"prompt": [system("Add."), user("2 + 2?")], "completion": [assistant("4")]},
    ),
    (
        "query_response",
        {"query": "2 + 2?", "response": "4"},
        {"prompt": [user("2 + 2?")], "completion": [assistant("4")]},
    ),
    (
        "query_response",
        {"system_prompt": "Add.", "question": "2 + 2?", "answer": "4", "id": "x"},
        {"prompt": [system("Add."), user("2 + 2?")], "completion": [assistant("4")]},
    ),
    (
        "messages",
        {"messages": [system(""), user("2 + 2?"), {"role": "assistant", "content": "4", "name": None}]},
        {"messages": [system(""), user("2 + 2?"), assistant("4")]},
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
                    ],
                },
                {"role": "tool", "content": "", "tool_call_id": "c1"},
                {"role": "assistant", "content": "4", "weight": 1},
            ],
            "tools": [TOOL],
        },
        {
            "messages": [
                user("2 + 2?"),
                {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **ADD}]},
                {"role": "tool", "content": "", "tool_call_id": "c1"},
                assistant("4"),
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    (
        "sharegpt",
        {"conversations": [HUMAN_ASKS, GPT_SAYS], "system": "Add.", "tools": "[]"},
        {"messages": [system("Add."), user("2 + 2?"), assistant("4")]},
    ),
    (
        "sharegpt",
        {
            "conversations": [
                HUMAN_ASKS,
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                GPT_SAYS,
            ],
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [
                user("2 + 2?"),
                {"role": "assistant", "content": "", "tool_calls": [ADD]},
                {"role": "tool", "content": "4"},
                assistant("4"),
            ],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    (
        "alpaca",
        {"instruction": "Add.", "input": "2 + 2", "output": "4"},
        {"prompt": [user("Add.\n2 + 2")], "completion": [assistant("4")]},
    ),
    (
        "alpaca",
        {"instruction": "And 3?", "input": "", "output": "6", "system": "Double.", "history": [["1?", "2"]]},
        {"prompt": [system("Double."), user("1?"), assistant("2"), user("And 3?")], "completion": [assistant("6")]},
    ),
    (
        "preference_text",
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
    ),
    (
        "preference_text",
        {"chosen": "Human: 2 + 2?\n\nAssistant: four", "rejected": "Human: 2 + 2?\n\nAssistant: five"},
        {"prompt": "Human: 2 + 2?\n\nAssistant:", "chosen": " four", "rejected": " five"},
    ),
    (
        "preference_messages",
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "preference_messages",
        {"chosen": [user("2 + 2?"), assistant("4")], "rejected": [user("2 + 2?"), assistant("4")]},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("4")]},
    ),
    (
        "preference_messages",
        {
            "prompt": "2 + 2?",
            "chosen": [user("2 + 2?"), assistant("4")],
            "rejected": [user("2 + 2?"), assistant("5")],
            "messages": [user("2 + 2?"), assistant("4")],
        },
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "sharegpt_preference",
        {"conversations": [HUMAN_ASKS], "chosen": GPT_SAYS, "rejected": {"from": "gpt", "value": "5"}},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "alpaca_preference",
        {"instruction": "Add.", "input": "2 + 2", "chosen": "4", "rejected": "5"},
        {"prompt": [user("Add.\n2 + 2")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "labelled",
        {"prompt": "2 + 2 =", "completion": " 5", "label": False},
        {"prompt": "2 + 2 =", "completion": " 5", "label": False},
    ),
    (
        "labelled_messages",
        {"messages": [user("1?"), assistant("1"), user("2 + 2?"), assistant("4")], "label": True},
        {"prompt": [user("1?"), assistant("1"), user("2 + 2?")], "completion": [assistant("4")], "label": True},
    ),
    (
        "labelled_alpaca",
        {"instruction": "Add.", "input": "2 + 2", "output": "5", "kto_tag": "false"},
        {"prompt": [user("Add.\n2 + 2")], "completion": [assistant("5")], "label": False},
    ),
    (
        "labelled_query_response",
        {"question": "2 + 2?", "answer": "4", "label": 1},
        {"prompt": [user("2 + 2?")], "completion": [assistant("4")], "label": True},
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "1?", "weight": 0},
                {"role": "assistant", "content": "one", "weight": 0},
                {"role": "user", "content": "2 + 2?", "loss": None},
                {"role": "assistant", "content": "4", "train": True},
            ]
        },
        {
            "messages": [
                user("1?"),
                {"role": "assistant", "content": "one", "weight": 0},
                user("2 + 2?"),
                assistant("4"),
            ]
        },
    ),
    (
        "messages",
        {"conversation": [{"speaker": "human", "text": "2 + 2?"}, {"author": "bot", "message": "4"}]},
        {"messages": [user("2 + 2?"), assistant("4")]},
    ),
    (
        "sharegpt",
        {"conversations": [{"role": None, **HUMAN_ASKS, "content": None}, {**GPT_SAYS, "loss": 1}]},
        {"messages": [user("2 + 2?"), assistant("4")]},
    ),
    (
        "sharegpt_preference",
        {"conversations": [HUMAN_ASKS], "chosen": [GPT_SAYS], "rejected": [{"from": "gpt", "value": "5"}]},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "preference_messages",
        {"prompt": "2 + 2?", "chosen": GPT_SAYS, "rejected": {"from": "gpt", "value": "5"}},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "alpaca_preference",
        {"question": "2 + 2?", "chosen": [GPT_SAYS], "rejected": [assistant("5")]},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "preference_messages",
        {
            "chosen": [user("1?"), {**assistant("1"), "weight": 0}, user("2 + 2?"), assistant("4")],
            "rejected": [user("1?"), assistant("1"), user("2 + 2?"), assistant("5")],
        },
        {
            "prompt": [user("1?"), assistant("1"), user("2 + 2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
        },
    ),
    (
        "ranked",
        {"prompt": "2 + 2 =", "responses": [" 4", " 5", " fish"], "id": 3},
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " fish"},
    ),
    (
        "ranked",
        {"prompt": "2 + 2 =", "answers": [" 5", " fish", " 4"], "ranks": ["2", 3.0, 1], "judge": "me"},
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " fish"},
    ),
    (
        "ranked",
        {
            "prompt": [HUMAN_ASKS],
            "completions": [{"from": "gpt", "value": "5", "score": 1}, {**assistant("4"), "score": 2}],
            "tools": [TOOL],
        },
        {
            "prompt": [user("2 + 2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    (
        "ranked_alpaca",
        {
            "instruction": "Add.",
            "input": "2 + 2",
            "completions": [
                {"model": "a", "response": "5", "overall_score": 2.5},
                {"model": "b", "response": "4", "overall_score": 9},
                {"model": "c", "response": "fish", "overall_score": "1"},
            ],
        },
        {"prompt": [user("Add.\n2 + 2")], "chosen": [assistant("4")], "rejected": [assistant("fish")]},
    ),
    (
        "ranked_alpaca",
        {"instruction": "Add.", "input": "2 + 2", "output": ["4", "5"], "system": "Be brief."},
        {
            "prompt": [system("Be brief."), user("Add.\n2 + 2")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
        },
    ),
    (
        "ranked_alpaca",
        {"question": "2 + 2?", "candidates": [[assistant("5")], [assistant("4")]], "scores": [-1, 0.5]},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "ranked_messages",
        {"conversations": [HUMAN_ASKS], "outputs": [{"text": "5", "rank": 2}, {"text": "4", "rank": 1}], "lang": "en"},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "messages_rejected",
        {"messages": [user("2 + 2?"), assistant("4")], "rejected_response": "5"},
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "messages_rejected",
        {
            "messages": [system("Add."), user("2 + 2?"), assistant("4")],
            "rejected_messages": [system("Add."), user("2 + 2?"), assistant("5")],
        },
        {"prompt": [system("Add."), user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "pair_rejected",
        {"query": "2 + 2?", "response": "4", "rejected_response": "5", "history": [["1?", "1"]]},
        {
            "prompt": [user("1?"), assistant("1"), user("2 + 2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
        },
    ),
    (
        "pair_rejected",
        {"prompt": "2 + 2 =", "completion": " 4", "rejected": " 5"},
        {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"},
    ),
    (
        "openai_preference",
        {
            "input": {"messages": [user("2 + 2?")], "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": [assistant("4")],
            "non_preferred_output": [assistant("5")],
        },
        {
            "prompt": [user("2 + 2?")],
            "chosen": [assistant("4")],
            "rejected": [assistant("5")],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    (
        "preference_messages",
        {
            "chosen_messages": [
                {"role": "user", "content": [{"type": "text", "value": "2 + 2?"}], "loss_weight": 0.0},
                {"role": "assistant", "content": [{"type": "text", "value": "4"}], "loss_weight": 1.0},
            ],
            "rejected_messages": [user("2 + 2?"), assistant("5")],
        },
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
    ),
    (
        "messages",
        {
            "messages": [
                user("2 + 2?"),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "Add."},
                        {"type": "tool_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                    ],
                },
                {"role": "tool", "content": [{"type": "text", "value": "4"}]},
                {"role": "assistant", "content": [{"type": "text", "value": "4"}], "training": True},
            ]
        },
        {
            "messages": [
                user("2 + 2?"),
                {"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [ADD]},
                {"role": "tool", "content": "4"},
                assistant("4"),
            ]
        },
    ),
    (
        "prompt",
        {"prompt": [{"from": "human", "value": "2 + 2?"}], "solution": "4"},
        {"prompt": [user("2 + 2?")], "solution": "4"},
    ),
    ("prompt", {"prompt": "2 + 2 =", "solution": 4}, {"prompt": "2 + 2 =", "solution": 4}),
]


def test_every_format_has_a_round_trip():
    assert {name for name, _, _ in ROUND_TRIPS} == set(FORMATS)
    assert {fmt.kind for fmt in FORMATS.values()} == set(DATASET_TYPES)


@pytest.mark.parametrize(("name", "row", "example"), ROUND_TRIPS)
def test_a_row_is_recognised_and_becomes_its_example(name, row, example):
    before = json.dumps(row)
    fmt = recognise(row)
    assert fmt is FORMATS[name]
    assert convert(fmt, at(row)) == example
    assert json.dumps(row) == before  # pure: the row is as it was


@pytest.mark.parametrize(("name", "row", "example"), ROUND_TRIPS)
def test_an_example_is_recognised_as_its_own_kind_and_stays_as_it_is(name, row, example):
    again = recognise(example)
    assert again is not None
    assert again.kind == FORMATS[name].kind
    assert convert(again, at(example)) == example


def test_a_new_role_can_be_given_a_meaning():
    row = at({"conversations": [{"from": "Klient", "value": "a"}, {"from": "gpt", "value": "b"}]})
    with pytest.raises(DataError, match="'Klient', an unknown role"):
        convert(FORMATS["sharegpt"], row)
    assert convert(FORMATS["sharegpt"], row, roles={"Klient": "user"}) == {"messages": [user("a"), assistant("b")]}


def test_a_meaning_may_be_any_known_role_and_others_leave_the_role_unknown():
    row = at({"conversations": [{"from": "customer", "value": "a"}, {"from": "Agent", "value": "b"}]})
    assert convert(FORMATS["sharegpt"], row, roles={"customer": "human", "agent": "GPT"}) == {
        "messages": [user("a"), assistant("b")]
    }
    with pytest.raises(DataError, match="'Agent', an unknown role"):
        convert(FORMATS["sharegpt"], row, roles={"customer": "user", "agent": "assistent"})
