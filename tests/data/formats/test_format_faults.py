"""What makes a row unusable is told with its place, the path of the field inside the row, and a remedy."""

from __future__ import annotations

import math

import pytest

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.formats.registry import FORMATS, convert
from tests.turns import ADD, GPT_SAYS, HUMAN_ASKS, assistant, at, system, user


def fault(value: dict, name: str) -> tuple[str, str, str]:
    with pytest.raises(DataError) as caught:
        convert(FORMATS[name], at(value))
    (problem,) = caught.value.problems
    return problem.where, problem.what, problem.fix


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
    ([user("a"), {"role": "narrator", "content": "b"}], "messages[1].role is 'narrator', an unknown role"),
    ([user(" "), assistant("b")], "messages[0].content is empty"),
    ([user("a"), assistant("\n")], "messages[1].content is empty"),
    ([user("a"), user("b")], "messages has no assistant turn"),
    ([user("a"), {**assistant("b"), "weight": 0}], "in messages no assistant turn is trained"),
    ([user("a"), {**assistant("b"), "loss": False}], "in messages no assistant turn is trained"),
    ([user("a"), {**assistant("b"), "weight": -1}], "messages[1].weight is the number -1, not a number of at least 0"),
    (
        [{**user("a"), "loss": math.nan}, assistant("b")],
        "messages[0].loss is the number NaN, not a number of at least 0",
    ),
    ([user("a"), {**assistant("b"), "train": "no"}], "messages[1].train is the text 'no', not a number of at least 0"),
    (
        [user("a"), {**assistant("b"), "weight": 0.5, "loss": 2}],
        "messages[1] has different weights in weight, loss",
    ),
    (
        [user("a"), {**assistant("b"), "train": 1, "loss": 0}],
        "messages[1] is marked both as trained and as untrained by loss, train",
    ),
    (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, assistant("b")],
        "messages[0].content[0] is not a text part but image_url",
    ),
    ([user("a"), {**user("b"), "tool_calls": [ADD]}], "messages[1] calls a tool as user"),
    ([user("a"), {"role": "assistant", "tool_calls": [{}]}], "messages[1].tool_calls: call 0 has no function name"),
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
        ("sharegpt", {"conversations": [HUMAN_ASKS, GPT_SAYS], "tools": [{}]}, "tools[0] has no function name"),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "a"}, HUMAN_ASKS, GPT_SAYS], "system": "b"},
            "conversations[0] and the system column set different system texts",
        ),
        ("preference_text", {"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is empty"),
        ("preference_text", {"chosen": "b c", "rejected": "d e"}, "chosen and rejected begin differently"),
        ("preference_text", {"chosen": "b c", "rejected": "b c"}, "chosen has no text after the common beginning"),
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
            "prompt is not the common beginning of chosen and rejected",
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
            {"prompt": "a", "completion": "b", "label": "fair"},
            "label is the text 'fair', not true or false",
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


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("customer", "data.roles={customer: user}"),
        ("Support_Agent", "data.roles={Support_Agent: assistant}"),
        ("Herr K.", 'data.roles: {"Herr K.": user} in the recipe'),
    ],
)
def test_an_unknown_role_is_told_with_the_setting_that_gives_it_a_meaning(name, remedy):
    _, _, fix = fault({"conversations": [{"from": name, "value": "a"}, GPT_SAYS]}, "sharegpt")
    assert remedy in fix
    assert "known roles: system, developer, user" in fix


CALLS_BADLY = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}, {"function": {}}]}


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("messages", {"messages": [user("a"), assistant("b"), user(" ")]}, "messages[2].content"),
        ("messages", {"messages": [{"speaker": "bot", "text": ""}]}, "messages[0].text"),
        ("messages", {"messages": [{"role": "narrator", "content": "a"}]}, "messages[0].role"),
        ("messages", {"messages": [user("a"), "b"]}, "messages[1]"),
        ("messages", {"messages": [user("a"), {**assistant("b"), "loss": -3}]}, "messages[1].loss"),
        ("messages", {"messages": [user("a"), {**assistant("b"), "loss": 0}]}, "messages"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ("messages", {"messages": [user("a"), CALLS_BADLY]}, "messages[1].tool_calls[1]"),
        (
            "sharegpt",
            {"conversations": [HUMAN_ASKS, {"from": "function_call", "value": "{"}]},
            "conversations[1].value",
        ),
        ("sharegpt", {"conversations": [HUMAN_ASKS, GPT_SAYS], "tools": [{}]}, "tools[0]"),
        ("alpaca", {"instruction": "a", "output": ""}, "output"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["c", ""]]}, "history[0][1]"),
        ("alpaca", {"instruction": "a"}, "output"),
        ("query_response", {"response": "a"}, ""),
        ("labelled", {"prompt": "a", "completion": "b", "label": "fair"}, "label"),
        ("labelled_messages", {"messages": [assistant("b"), user("a")], "label": True}, "messages[1]"),
        (
            "labelled_messages",
            {"messages": [user("a"), {**assistant("b"), "weight": 0}], "system": "s", "label": True},
            "messages[1].weight",
        ),
        (
            "prompt_completion",
            {"prompt": "a", "completion": {"from": "gpt", "value": "b", "train": False}},
            "completion.weight",
        ),
        (
            "preference_messages",
            {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), {**assistant("c"), "weight": 0}]},
            "rejected[1].weight",
        ),
        ("preference_messages", {"prompt": "a", "chosen": [assistant("b")], "rejected": [user("c")]}, "rejected[0]"),
        ("preference_text", {"prompt": "a", "chosen": "b", "rejected": " "}, "rejected"),
        ("ranked", {"prompt": "a", "responses": [{"text": "b"}, {"answer": ""}]}, "responses[1].answer"),
    ],
)
def test_a_fault_carries_the_path_of_its_field(name, row, field):
    with pytest.raises(DataError) as caught:
        convert(FORMATS[name], at(row))
    (problem,) = caught.value.problems
    assert isinstance(problem, RowProblem)
    assert problem.field == field


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"responses": ["b"]}, "responses is a list of 1, not a list of two or more answers"),
        ({"responses": "b"}, "responses is the text 'b', not a list of two or more answers"),
        ({"responses": ["b", "c"], "ranks": [1]}, "ranks is a list of 1, but responses is a list of 2"),
        ({"responses": ["b", "c"], "scores": {"b": 1}}, "scores is an object with b, but responses is a list of 2"),
        ({"responses": ["b", "c"], "ranks": [1, 1]}, "responses has no best and worst: all 2 are ranked equal"),
        ({"responses": ["b", "c"], "ranks": [1, "second"]}, "ranks[1] is the text 'second', not a number"),
        ({"responses": ["b", "c"], "scores": [1, True]}, "scores[1] is true, not a number"),
        ({"responses": ["b", "c"], "scores": [float("nan"), 1]}, "scores[0] is the number NaN, not a number"),
        ({"responses": [{"text": "b", "rank": 1}, {"text": "c"}]}, "responses[1] has no rank, but others do"),
        ({"responses": [{"text": "b", "score": "N/A"}, {"text": "c", "score": 1}]}, "responses[0].score is the text"),
        ({"responses": [{"says": "b"}, "c"]}, "responses[0] has no text (it has says)"),
        ({"responses": [user("b"), assistant("c")]}, "responses[0] is a user turn, not the assistant's"),
        ({"output": ["b", "c", "d"]}, "output is a list of 3, not a list of two texts"),
    ],
)
def test_answers_without_a_best_and_a_worst_are_refused(more, what):
    where, found, fix = fault({"instruction": "a", **more}, "ranked_alpaca")
    assert where == "rows.jsonl:17"
    assert found.startswith(what)
    assert fix
