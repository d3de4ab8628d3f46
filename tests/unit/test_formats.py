"""Every format is recognised by its columns, becomes the right example, and names the field that is wrong."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcli.data.formats import (
    FORMATS,
    KINDS,
    apply_mapping,
    candidates,
    columns_error,
    convert,
    kind_after,
    kind_problem,
    recognise,
    to_kind,
)
from ftcli.data.read import Row
from ftcli.data.turns import FieldFault
from ftcli.errors import DataError


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


HUMAN_ASKS = {"from": "human", "value": "2 + 2?"}
GPT_SAYS = {"from": "gpt", "value": "4"}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}

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
        "prompt",
        {"prompt": [{"from": "human", "value": "2 + 2?"}], "solution": "4"},
        {"prompt": [user("2 + 2?")], "solution": "4"},
    ),
    ("prompt", {"prompt": "2 + 2 =", "solution": 4}, {"prompt": "2 + 2 =", "solution": 4}),
]


def at(value: dict) -> Row:
    return Row("rows.jsonl", 17, value)


def fault(value: dict, name: str) -> tuple[str, str, str]:
    with pytest.raises(DataError) as caught:
        convert(FORMATS[name], at(value))
    (problem,) = caught.value.problems
    return problem.where, problem.what, problem.fix


def test_every_format_has_a_round_trip():
    assert {name for name, _, _ in ROUND_TRIPS} == set(FORMATS)
    assert {fmt.kind for fmt in FORMATS.values()} == set(KINDS)


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


@given(WORDS, WORDS, WORDS)
def test_parting_two_texts_loses_no_character(begin, one, two):
    row = {"chosen": f"{begin} x {one}", "rejected": f"{begin} x {two}"}
    try:
        example = convert(FORMATS["preference_text"], at(row))
    except DataError:
        return
    assert example["prompt"] + example["chosen"] == row["chosen"]
    assert example["prompt"] + example["rejected"] == row["rejected"]


CHATS = [
    ([], "messages is empty"),
    ("[]", "messages is the text '[]', not a list of turns"),
    (["hi"], "messages[0] is the text 'hi', not an object"),
    ([user("a"), {"role": "assistant", "content": 4}], "messages[1].content is the number 4, not text"),
    (
        [user("a"), {"role": "assistant", "content": None}],
        "messages[1].content is missing (the turn has role, content)",
    ),
    ([user("a"), {"content": "b"}], "messages[1].role is missing"),
    ([user("a"), {"role": "narrator", "content": "b"}], "messages[1].role is 'narrator', which is no known role"),
    ([user(" "), assistant("b")], "messages[0].content is empty"),
    ([user("a"), assistant("\n")], "messages[1].content is empty"),
    ([user("a"), user("b")], "messages has no assistant turn"),
    ([user("a"), {**assistant("b"), "weight": 0}], "messages[1].weight asks for a turn that counts otherwise"),
    ([user("a"), {**assistant("b"), "loss": False}], "messages[1].loss asks for a turn that counts otherwise"),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, assistant("b")],
        "messages[0].content[0] is no text part but image_url",
    ),
    ([user("a"), {**user("b"), "tool_calls": [ADD]}], "messages[1] calls a tool as user"),
    ([user("a"), {"role": "assistant", "tool_calls": [{}]}], "messages[1].tool_calls: call 0 names no function"),
    (
        [user("a"), {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x}"}}]}],
        "messages[1].tool_calls: call 0's arguments is not JSON",
    ),
]


@pytest.mark.parametrize(("messages", "what"), CHATS)
def test_a_fault_in_a_conversation_names_the_turn(messages, what):
    where, found, fix = fault({"messages": messages}, "messages")
    assert where == "rows.jsonl:17"
    assert found.startswith(what)
    assert fix


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("text", {"text": ""}, "text is empty"),
        ("text", {"body": "a"}, "has no column text (only body)"),
        ("text", {"text": None}, "text is null"),
        ("prompt_completion", {"prompt": "a", "completion": " "}, "completion is empty"),
        ("prompt_completion", {"prompt": "a", "completion": 1.5}, "completion is the number 1.5, not a list of turns"),
        (
            "prompt_completion",
            {"prompt": "a", "completion": [user("b")]},
            "completion is a user turn, not the assistant's",
        ),
        ("alpaca", {"instruction": "a", "input": "", "output": ""}, "output is empty"),
        ("alpaca", {"instruction": "", "input": "", "output": "b"}, "instruction is empty"),
        ("alpaca", {"instruction": "a", "input": 3, "output": "b"}, "input is the number 3, not text"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c"]]}, "history[0] is a list of 1"),
        ("alpaca", {"instruction": "a"}, "has no column output (only instruction)"),
        ("query_response", {"question": "a", "answer": ""}, "answer is empty"),
        ("sharegpt", {"conversations": [HUMAN_ASKS, {"from": "gpt", "value": ""}]}, "conversations[1].value is empty"),
        ("sharegpt", {"conversations": [HUMAN_ASKS, {"from": "gpt"}]}, "conversations[1].value is missing"),
        (
            "sharegpt",
            {"conversations": [HUMAN_ASKS, {"from": "function_call", "value": "add(2)"}, GPT_SAYS]},
            "conversations[1].value is not the JSON of a call",
        ),
        ("sharegpt", {"conversations": [HUMAN_ASKS, GPT_SAYS], "tools": "{"}, "tools is not a JSON list of tools"),
        ("sharegpt", {"conversations": [HUMAN_ASKS, GPT_SAYS], "tools": [{}]}, "tools[0] names no function"),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "a"}, HUMAN_ASKS, GPT_SAYS], "system": "b"},
            "conversations[0] and the system column both set the system text",
        ),
        ("preference_text", {"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is empty"),
        ("preference_text", {"chosen": "b c", "rejected": "d e"}, "chosen and rejected begin differently"),
        ("preference_text", {"chosen": "b c", "rejected": "b c"}, "chosen holds no answer of its own"),
        ("preference_text", {"prompt": "a", "chosen": "b", "rejected": [assistant("c")]}, "chosen is the text 'b' but"),
        (
            "preference_messages",
            {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
            "chosen and rejected begin differently",
        ),
        (
            "preference_messages",
            {"chosen": [system("s"), user("a"), assistant("b")], "rejected": [system("s"), user("c"), assistant("d")]},
            "turn 1 of the answer in chosen is a user turn",
        ),
        (
            "preference_messages",
            {"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
            "prompt is not how chosen and rejected both begin",
        ),
        (
            "sharegpt_preference",
            {"conversations": [HUMAN_ASKS, GPT_SAYS], "chosen": GPT_SAYS, "rejected": GPT_SAYS},
            "conversations ends with an assistant turn",
        ),
        (
            "sharegpt_preference",
            {"conversations": [HUMAN_ASKS], "chosen": {"from": "human", "value": "x"}, "rejected": GPT_SAYS},
            "chosen is a user turn, not the assistant's",
        ),
        (
            "labelled",
            {"prompt": "a", "completion": "b", "label": "good"},
            "label is the text 'good', not true or false",
        ),
        ("labelled", {"prompt": "a", "completion": "b", "label": None}, "label is null"),
        ("labelled_messages", {"messages": [user("a")], "label": True}, "messages ends with a user turn"),
        ("labelled_messages", {"messages": [assistant("a")], "label": True}, "messages has no turn before the answer"),
        ("prompt", {"prompt": []}, "prompt is empty"),
    ],
)
def test_a_fault_names_the_place_and_the_field(name, row, what):
    where, found, fix = fault(row, name)
    assert where == "rows.jsonl:17"
    assert found.startswith(what)
    assert fix


def test_a_new_role_can_be_given_a_meaning():
    row = at({"conversations": [{"from": "Klient", "value": "a"}, {"from": "gpt", "value": "b"}]})
    with pytest.raises(DataError, match="'Klient', which is no known role"):
        convert(FORMATS["sharegpt"], row)
    assert convert(FORMATS["sharegpt"], row, roles={"Klient": "user"}) == {"messages": [user("a"), assistant("b")]}


def test_a_judged_set_is_never_mistaken_for_one_to_imitate():
    row = {"messages": [user("a"), assistant("b")], "label": False}
    assert [fmt.name for fmt in candidates(row)] == ["labelled_messages", "messages"]
    problem = kind_problem(FORMATS["labelled_messages"], row, "data.path=x", ("text", "pair", "messages"), "sft")
    assert problem is not None
    assert (
        problem.what == "the rows are of kind label (format labelled_messages), and sft takes text or pair or messages"
    )
    assert "name the format: the columns also fit messages" in problem.fix
    with pytest.raises(FieldFault, match="without loss"):
        to_kind(convert(FORMATS["labelled_messages"], at(row)), "label", ("pair",))


def test_a_pair_becomes_messages_where_only_those_are_taken():
    assert (kind_after("pair", ("pair", "messages")), kind_after("pair", ("messages",))) == ("pair", "messages")
    assert kind_after("pair", ("text",)) is None
    row = at({"prompt": "a", "completion": "b"})
    assert convert(FORMATS["prompt_completion"], row, wanted=("messages",)) == {"messages": [user("a"), assistant("b")]}
    row = at({"instruction": "c", "output": "d", "history": [["a", "b"]]})
    with pytest.raises(DataError, match=r"rows\.jsonl:17.*earlier answers that would be trained too"):
        convert(FORMATS["alpaca"], row, wanted=("messages",))


@pytest.mark.parametrize("kind", KINDS)
def test_only_pairs_become_something_else(kind):
    reachable = {wanted for wanted in KINDS if kind_after(kind, (wanted,))}
    assert reachable == ({"pair", "messages"} if kind == "pair" else {kind})


def test_unknown_columns_are_refused_with_the_nearest_formats_first():
    row = {"instructions": "a", "output": "b", "n": 3}
    assert recognise(row) is None
    problem = columns_error(row, "data.path=rows.jsonl")
    assert problem.where == "data.path=rows.jsonl"
    lines = problem.what.splitlines()
    assert lines[1] == "  columns: instructions (text), output (text), n (a number)"
    assert lines[3] == "    alpaca: no column instruction (there is 'instructions')"
    assert len(lines) == 8


def test_a_column_of_the_wrong_type_is_refused_with_what_it_holds():
    assert "prompt_completion: completion is the number 4, not text or turns" in columns_error(
        {"prompt": "a", "completion": 4, "text": None}, ""
    ).what.replace("\n", " ")
    assert recognise({"messages": ["a", "b"]}) is None
    assert "messages is a list of 2, not a list of {role, content}" in columns_error({"messages": ["a", "b"]}, "").what


def test_columns_with_nothing_known_list_formats_all_the_same():
    assert len(columns_error({"zzz": 1}, "").what.splitlines()) == 8


def test_a_null_column_is_as_good_as_none():
    # how parquet writes rows of two formats into one table
    assert recognise({"messages": None, "text": "a", "label": None}) is FORMATS["text"]


def test_columns_that_a_format_does_not_read_are_known():
    assert FORMATS["query_response"].unread({"question": "a", "answer": "b", "context": "c"}) == ["context"]
    assert FORMATS["prompt"].unread({"prompt": "a", "solution": "c"}) == []


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
