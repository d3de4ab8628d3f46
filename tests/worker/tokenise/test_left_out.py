"""What a chat template leaves out: refused of a trained answer, reported of everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftcli.core.errors import DataError
from ftcli.data.scan import Example
from ftcli.worker.tokenise.encoder import Encoded
from ftcli.worker.tokenise.left_out import left_out, said_by
from tests.worker.served import encoder_of, shipped

KIND = "left out by the template"
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm", "days": [2, True, None]}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {}, "unit": {}}},
    },
}
ASKED = {"role": "user", "content": "How is it?"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
SAID = {"role": "assistant", "content": "It rains.", "reasoning_content": "The tool says so."}
ROW = [{"role": "system", "content": "Be brief."}, ASKED, CALLING, {"role": "tool", "content": "rain"}, SAID]

END = ("<|im_end|>",)
WHOLE = (
    "{{ tools | tojson if tools }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.reasoning_content }}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that writes everything; each test takes something away."""
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"


def encoded(template: str, turns: list[dict[str, Any]], tools: Any = None) -> Encoded:
    value = {"messages": turns, **({"tools": tools} if tools else {})}
    return encoder_of(template, END).encode([Example("rows.jsonl:7", "messages", value)])[0]


def untrained(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]


def reported(found: Encoded) -> dict[str, str]:
    return {each.field: each.what for each in found.findings if each.kind == KIND}


def test_a_template_that_writes_everything_leaves_nothing_out():
    assert reported(encoded(WHOLE, ROW, [TOOL])) == {}


@pytest.mark.parametrize(
    ("instead", "lost"),
    [
        ("", 'the called function of turn 3, "weather"'),
        (
            "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}",
            'an argument of weather of turn 3, "town"',
        ),
        (
            "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | join(' ') }}{% endfor %}",
            'an argument of weather of turn 3, "Ulm"',
        ),
        (
            "{% for c in m.tool_calls or [] %}{{ c.function.name }} town Ulm days{% endfor %}",
            "an argument of weather of turn 3, 2",
        ),
    ],
)
def test_a_trained_call_that_is_not_written_whole_is_refused(instead, lost):
    with pytest.raises(DataError) as caught:
        encoded(WHOLE.replace(CALLS, instead), ROW, [TOOL])
    [problem] = caught.value.problems
    assert problem.where == "rows.jsonl:7"
    assert f"the model's chat template leaves out {lost}" in problem.what
    assert "data.max_bad_share" in problem.fix


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_trained_reasoning_that_is_not_written_is_refused(key):
    turns = [ASKED, {"role": "assistant", "content": "It rains.", key: "The tool says so."}]
    with pytest.raises(DataError, match=r"leaves out the reasoning of turn 2, .The tool says so") as caught:
        encoded(WHOLE.replace("{{ m.reasoning_content }}", ""), turns)
    assert "remove the reasoning from the rows" in caught.value.problems[0].fix
    assert reported(encoded(WHOLE.replace("reasoning_content", key), turns)) == {}


def test_text_beside_a_trained_call_that_is_not_written_is_refused():
    template = WHOLE.replace("{{ m.content }}", "{{ m.content if not m.tool_calls }}")
    with pytest.raises(DataError, match=r"leaves out the assistant's text of turn 2, .I look it up"):
        encoded(template, [ASKED, {**CALLING, "content": "I look it up."}])
    assert reported(encoded(template, [ASKED, CALLING])) == {}


def test_thoughts_inside_a_trained_text_that_are_stripped_are_refused_as_reasoning():
    template = WHOLE.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    with pytest.raises(DataError, match="leaves out the reasoning of turn 2"):
        encoded(template, [ASKED, {"role": "assistant", "content": "<think>Hm, rain.</think> It rains."}])


def test_a_preference_whose_call_is_not_written_is_refused():
    value = {"prompt": [ASKED], "chosen": [CALLING], "rejected": [{"role": "assistant", "content": "No."}]}
    with pytest.raises(DataError, match=r"rows\.jsonl:7.*leaves out the called function"):
        encoder_of(WHOLE.replace(CALLS, "!"), END).encode([Example("rows.jsonl:7", "preference", value)])


DROPPED = {
    "the system's text": ("{{ m.content }}", "{{ m.content if m.role != 'system' }}", "turn 1", "Be brief."),
    "the user's text": ("{{ m.content }}", "{{ m.content if loop.index != 2 }}", "turn 2", "How is it?"),
    "the end of a user's text": (
        "{{ m.content }}",
        "{{ m.content[:6] if m.role == 'user' else m.content }}",
        "turn 2",
        "How is it?",
    ),
    "a tool's result": ("{{ m.content }}", "{{ m.content if m.role != 'tool' }}", "turn 4", "rain"),
    "an untrained call": (CALLS, "", "turn 3", "Ulm"),  # the function's name stands among the declared tools
    "untrained reasoning": ("{{ m.reasoning_content }}", "", "turn 5", "The tool says so."),
    "tools": ("{{ tools | tojson if tools }}", "", "tools", "Weather of a town."),
    "a description": ("{{ tools | tojson if tools }}", "{{ 'weather town' }}", "tools", "Weather of a town."),
    "a parameter": ("{{ tools | tojson if tools }}", "weather Weather of a town.", "tools", "unit"),
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_left_out_of_what_is_only_read_is_reported(case):
    before, after, place, lost = DROPPED[case]
    row = [*untrained(*ROW), ASKED | {"content": "Thanks?"}, {"role": "assistant", "content": "Welcome!"}]
    found = reported(encoded(WHOLE.replace(before, after), row, [TOOL]))
    assert list(found) == [place]
    assert "the chat template leaves out " in found[place]
    assert json.dumps(lost)[:20] in found[place]


def test_a_prompt_to_answer_is_checked_too():
    encoder = encoder_of(WHOLE.replace("{{ m.content }}", "{{ m.content if m.role != 'system' }}"), END)
    value = {"prompt": ROW[:2], "answer": "rain"}
    [found] = encoder.encode([Example("rows.jsonl:7", "prompt", value)])
    assert list(reported(found)) == ["turn 1"]


def test_a_user_turn_that_repeats_another_is_missed_when_the_template_drops_it():
    turns = [ASKED, {"role": "assistant", "content": "Rain."}, ASKED, {"role": "assistant", "content": "Still rain."}]
    template = WHOLE.replace("{{ m.content }}", "{{ m.content if not (m.role == 'user' and loop.index == 1) }}")
    assert list(reported(encoded(template, turns))) == ["turn 1"]


def test_reasoning_of_earlier_turns_that_are_not_trained_is_reported_where_a_template_strips_it():
    first = {**SAID, "reasoning_content": "I asked."}
    turns = [ASKED, first, ASKED | {"content": "Sure?"}, {**SAID, "content": "Yes.", "reasoning_content": "I looked."}]
    template = shipped("qwen3").tokenizer.chat_template
    assert not encoded(template, turns).findings  # each is trained with its reasoning, as an example of its own
    found = encoded(template, [ASKED, {**first, "weight": 0}, *turns[2:]])
    assert not found.earlier
    assert list(reported(found)) == ["turn 2"]
    assert "the reasoning" in reported(found)["turn 2"]


@pytest.mark.parametrize(
    "form", ["{{ v }}", "{{ v | tojson }}", "{{ v | tojson | tojson }}", "{{ v | e }}", "{{ [v] }}"]
)
@pytest.mark.parametrize(
    "value", ["Ulm", 'say "hi" & go', "it's", "two\nlines", "Zürich 日本", "a\\b", 3, 2.5, True, None]
)
def test_a_value_is_found_in_every_form_in_which_templates_write_it(form, value):
    from jinja2 import Environment

    environment = Environment(autoescape=False)
    environment.filters["tojson"] = lambda each: json.dumps(each, ensure_ascii=False)
    call = {"function": {"name": "f", "arguments": {"k": value}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    text = "f k " + environment.from_string(form).render(v=value)
    assert left_out([turn], None, text) == []
    assert [each.value for each in said_by(turn)] == ["f", "k", value]
    assert len(left_out([turn], None, "f k")) == 1
