"""What is trained against what transformers serves, for every chat template that ships with us or with TRL."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from ftcli.core.errors import DataError
from ftcli.data.scan import Example
from ftcli.worker.tokenise.answer_spans import Answer
from ftcli.worker.tokenise.encoder import IGNORED, Encoded, Encoder
from ftcli.worker.tokenise.serving_parity import OWN, PROMPTS, VARIANT
from tests.worker.served import (
    TEMPLATES,
    Turns,
    Wanted,
    byte_level,
    encoder_of,
    ends_of,
    needs_parts,
    outside_marks,
    plain_ids,
    rendered,
    sentencepiece,
    shipped,
    wanted,
)

FEW = settings(max_examples=7, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

LEFT_OUT = re.compile(r"(<\|tool_response>|<\|turn>model\n)*")
"""What serving asks for and marks take away: DiffusionGemma's call has its stop behind them, and it opens the answer to
a tool's result itself."""
END = ("</s>",)
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}]


def encoded(encoder: Encoder, turns: Turns, tools: Any = None) -> Encoded:
    value = {"messages": turns, **({"tools": tools} if tools else {})}
    return encoder.encode([Example("rows.jsonl:7", "messages", value)])[0]


def check(encoder: Encoder, ends: Sequence[str], turns: Turns, tools: Any = None) -> Wanted | str:
    """Holds our tokens against those of serving, and says what is expected."""
    expected = wanted(encoder, ends, turns, tools)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=f"rows.jsonl:7.*{expected}"):
            encoded(encoder, turns, tools)
        return expected
    found = encoded(encoder, turns, tools)
    columns = [*found.earlier, found.columns]
    assert len(columns) == len(expected.examples)
    unmarked: list[int] = []
    for own, example in zip(columns, expected.examples, strict=True):
        outside = outside_marks(encoder, example.turns, tools, example.text) if example.as_written else []
        left = [i for i in outside if example.labels[i] != IGNORED]
        assert LEFT_OUT.fullmatch(encoder.tokenizer.decode([example.labels[i] for i in left]))
        for place in left:
            example.labels[place] = IGNORED
        assert own["input_ids"] == example.ids
        assert own["labels"] == example.labels
        unmarked += left
    # SentencePiece has a space of its own before a section; byte-level tokens are the text, and nothing else.
    spaces = " " if 'byte_fallback":true' in encoder.tokenizer.backend_tokenizer.to_str() else ""
    said = trained_text(encoder, found).replace(spaces, "") if spaces else trained_text(encoder, found)
    assert unmarked or said == ("".join(expected.texts).replace(spaces, "") if spaces else "".join(expected.texts))
    assert unmarked or found.ended == expected.texts[-1].endswith(tuple(ends))
    return expected


def trained_text(encoder: Encoder, found: Encoded) -> str:
    examples = [*found.earlier, found.columns]
    return encoder.tokenizer.decode([label for each in examples for label in each["labels"] if label != IGNORED])


# --- random conversations --------------------------------------------------------------------------------------------

_space = st.sampled_from(["", "", "", " ", "\n", "\n\n", "  "])
_body = st.text("abc dé日🙂.,:\n'{}", min_size=1, max_size=12).filter(str.strip) | st.sampled_from(
    ["Hello, world!", "a\n\nb", "no </think> yes", "assistant\nuser", "x", "é"]
)
_said = st.tuples(_space, _body, _space).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Turns, Any]:
    """Turns and tools: a system's word or none, one to four exchanges, some with reasoning, a call, or not trained."""
    turns: Turns = [{"role": "system", "content": draw(_said)}] if draw(st.booleans()) else []
    reasons, calls = draw(st.booleans()), draw(st.integers(0, 3)) == 0
    for number in range(draw(st.integers(1, 4))):
        turns.append({"role": "user", "content": draw(_said)})
        thought = draw(st.sampled_from(["", "why not", "\nhm\n", " "]))
        more = {"reasoning_content": thought, "thinking": thought} if reasons else {}
        if calls and draw(st.booleans()):
            call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "é"}}}
            asking = "" if reasons else draw(st.sampled_from(["", "Let me see."]))
            turns.append({"role": "assistant", "content": asking, "tool_calls": [call], **more})
            turns.append({"role": "tool", "name": "look", "tool_call_id": "c1", "content": draw(_said)})
        skipped = {"weight": 0} if number == 0 and draw(st.integers(0, 4)) == 0 else {}
        turns.append({"role": "assistant", "content": draw(_said), **more, **skipped})
    if all(turn.get("weight") == 0 for turn in turns if turn["role"] == "assistant"):
        del turns[-1]["weight"]
    return turns, TOOLS if calls else None


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
@FEW
@given(conversations())
def test_every_template_trains_the_answers_as_they_are_served(name, row):
    check(shipped(name), ends_of(name), *row)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
@FEW
@given(conversations())
def test_counting_added_tokens_finds_what_offsets_find(name, row):
    (turns, tools), encoder = row, shipped(name)
    asked = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    try:
        examples = encoder.serving.render(Example("rows.jsonl:7", "messages", {}), turns, asked, tools, marked=False)
    except DataError:
        return
    for found in examples:
        spans, ids = encoder.serving.spans, plain_ids(encoder, found.text)
        for answer in found.answers:
            counted = spans.counted(found.text, ids, answer)
            if counted is not None and len(encoder.serving.pieces(found)) == 1:
                assert [counted] == spans.measured(found.text, answer)


def test_counting_is_what_usually_decides():
    encoder = shipped("qwen2_5")
    turns = [{"role": "user", "content": "Tree?"}, {"role": "assistant", "content": "Leaf <|im_end|> no."}]
    [found] = encoder.serving.render(Example("rows.jsonl:7", "messages", {}), turns, [1], None, marked=False)
    [answer] = found.answers
    # The second end token: the first is the answer's own text, which the tokenizer reads as one too.
    counted = encoder.serving.spans.counted(found.text, plain_ids(encoder, found.text), answer)
    assert counted is not None
    assert [counted] == encoder.serving.spans.measured(found.text, answer)


WITH_REASONING: Turns = [
    {"role": "user", "content": "Tree?"},
    {"role": "assistant", "content": "Leaf.", "reasoning_content": "It grows.", "thinking": "It grows."},
    {"role": "user", "content": "Sun?"},
    {"role": "assistant", "content": "Moon.", "reasoning_content": "It sets.", "thinking": "It sets."},
]
WITHOUT_REASONING: Turns = [{"role": turn["role"], "content": turn["content"]} for turn in WITH_REASONING]
UNROLLED = (
    "deepseek",
    "diffusion_gemma",
    "gemma4_v5",
    "glm4moe",
    "gptoss",
    "lfm2_2_5",
    "nemotron",
    "qwen3",
    "qwen3_5",
    "qwen3_6",
)
"""They strip the reasoning of earlier turns."""


def writes_reasoning(name: str) -> bool:
    return (name.startswith(UNROLLED) and not name.startswith(("qwen3_instruct", "qwen3_vl"))) or not (
        name.startswith(NO_REASONING)
    )


NO_REASONING = ("cohere", "gemma", "lfm2", "llama3", "phi3", "qwen2_5", "qwen3_instruct", "qwen3_vl", "tiny")
"""They write no reasoning, or only if they are told to think; others of these names do."""


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
def test_where_a_template_strips_reasoning_from_earlier_turns_each_turn_is_trained_as_it_is_served(name):
    expected = check(shipped(name), ends_of(name), WITH_REASONING)
    unrolled = name.startswith(UNROLLED) and not name.startswith(("qwen3_instruct", "qwen3_vl", "qwen3_8"))
    if name == "qwen3_5_nothink":  # its prompt opens and closes the reasoning
        assert expected == "reasoning of turn 2 cannot be trained"
    elif not writes_reasoning(name):
        with pytest.raises(DataError, match=r"leaves out the reasoning of turn 2, .It grows"):
            encoded(shipped(name), WITH_REASONING)
    else:
        assert not isinstance(expected, str)
        assert (expected.unrolled, len(expected.texts)) == (unrolled, 2)
        assert not encoded(shipped(name), WITH_REASONING).findings
        for said, turn in zip(expected.texts, (WITH_REASONING[1], WITH_REASONING[3]), strict=True):
            assert said.index(turn["reasoning_content"]) < said.index(turn["content"])


@pytest.mark.parametrize("name", [name for name in TEMPLATES if needs_parts(name)])
def test_a_template_that_writes_nothing_of_plain_text_is_refused(name):
    # Their contents are lists of parts: of text, some would write "Assistant: <end_of_utterance>" and train that.
    with pytest.raises(DataError, match=r"refuses the row|drops the assistant's text: 'Leaf'"):
        encoded(shipped(name), WITH_REASONING)


def test_all_three_ways_to_mark_answers_ship():
    assert {shipped(name).serving.marks for name in TEMPLATES} == {OWN, VARIANT, PROMPTS}


def asks(answer: str, *more: dict[str, Any], **keys: Any) -> Turns:
    return [{"role": "user", "content": "Tree?"}, {"role": "assistant", "content": answer, **keys}, *more]


# --- tokens that grow across the boundary ----------------------------------------------------------------------------


def test_an_answer_that_begins_with_a_line_break_is_refused_with_the_tokens_that_differ():
    # "assistant\n" + "\nLeaf" has one token of two line breaks, where serving has read one line break.
    with pytest.raises(DataError, match=r"serving reads .*'assistant' '\\n', training .*'assistant' '\\n\\n' 'L"):
        encoded(shipped("lfm2"), asks("\nLeaf"))
    assert check(shipped("llama3"), ends_of("llama3"), asks("\nLeaf")).texts == ["Leaf<|eot_id|>"]  # it trims


def turn_by_turn(user: str, assistant: str) -> str:
    """A template without special tokens around its turns."""
    return (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ " + assistant + " }}"
        "{% elif m.role == 'user' %}{{ " + user + " }}{% else %}{{ m.content + '\\n' }}{% endif %}{% endfor %}"
    )


BARE = {
    "llama2": turn_by_turn("'[INST] ' + m.content + ' [/INST]'", "' ' + m.content | trim + ' ' + eos_token"),
    "mistral": turn_by_turn("'[INST] ' + m.content + ' [/INST]'", "m.content + eos_token"),
    "vicuna": turn_by_turn("'USER: ' + m.content + ' ASSISTANT:'", "' ' + m.content + eos_token"),
}


@pytest.mark.parametrize("template", BARE)
@pytest.mark.parametrize("kind", ["normalised", "first", "always", "never"])
@FEW
@given(conversations())
def test_templates_without_special_tokens_train_the_answers_as_they_are_served(kind, template, row):
    check(encoder_of(BARE[template], END, sentencepiece(kind)), END, *row)


@pytest.mark.parametrize("kind", ["normalised", "first", "always", "never"])
def test_an_answer_after_inst_is_trained_from_its_own_space_on(kind):
    found = check(encoder_of(BARE["llama2"], END, sentencepiece(kind)), END, WITHOUT_REASONING)
    assert found.texts == [" Leaf. </s>", " Moon. </s>"]


def byte_level_with(**parts: Any) -> str:
    return json.dumps({**json.loads(byte_level()), **parts})


def test_offsets_that_leave_out_spaces_refuse_no_row():
    # GPT-NeoX trims them: the token " Leaf" begins at the L, and the answer at the space before it.
    processor = json.loads(processors.ByteLevel(trim_offsets=True).__getstate__())
    encoder = encoder_of(BARE["vicuna"], END, byte_level_with(post_processor=processor))
    assert check(encoder, END, asks("Leaf")).texts == [" Leaf</s>"]


def test_white_space_that_a_special_token_swallows_refuses_no_row():
    # Phi-3's <|assistant|> takes all white space behind it, in serving as in training.
    parts = json.loads(byte_level())
    for token in parts["added_tokens"]:
        token["rstrip"] = token["content"] == "<|assistant|>"
    encoder = encoder_of(TEMPLATES["phi3"].read_text(encoding="utf-8"), ends_of("phi3"), json.dumps(parts))
    assert trained_text(encoder, encoded(encoder, asks("\n Leaf"))) == "Leaf<|end|>"
    text = rendered(encoder, asks("\n Leaf"), None)
    begin, end = text.index("\n\n Leaf") + 1, text.index("<|end|>", text.index("Leaf")) + len("<|end|>")
    [(first, until)] = encoder.serving.spans.measured(text, Answer(1, begin, end, True, ((begin, end),)))
    assert encoder.tokenizer.decode(plain_ids(encoder, text)[first:until]) == "Leaf<|end|>"


# --- which token ends an answer --------------------------------------------------------------------------------------


def test_an_end_token_that_no_setting_names_closes_the_last_turn_alone():
    # Phi-3 writes <|endoftext|> once, behind everything: a model that stops there alone is served "…<|end|>\n" as well.
    encoder = encoder_of(TEMPLATES["phi3"].read_text(encoding="utf-8"), ("<|endoftext|>",))
    expected = check(encoder, ("<|endoftext|>",), WITHOUT_REASONING)
    assert [example.text for example in expected.examples] == [
        "<|user|>\nTree?<|end|>\n<|assistant|>\nLeaf.<|end|>\n<|endoftext|>",
        "<|user|>\nTree?<|end|>\n<|assistant|>\nLeaf.<|end|>\n<|user|>\nSun?<|end|>\n<|assistant|>\nMoon.<|end|>\n<|endoftext|>",
    ]
    assert check(shipped("phi3"), ends_of("phi3"), WITHOUT_REASONING).texts == ["Leaf.<|end|>", "Moon.<|end|>"]


def test_where_no_named_end_token_comes_the_last_special_token_ends_the_answer():
    # Cohere writes <|END_RESPONSE|><|END_OF_TURN_TOKEN|>; a base model's settings may name neither.
    encoder = encoder_of(TEMPLATES["cohere2"].read_text(encoding="utf-8"), ("<|endoftext|>",))
    found = encoded(encoder, asks("Leaf"))
    assert (trained_text(encoder, found), found.ended) == ("Leaf<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", True)


def test_end_tokens_that_the_tokenizer_lacks_are_passed_over():
    encoder = shipped("lfm2")
    more = Encoder(encoder.tokenizer, [*encoder.stop_ids, 10**6, encoder.tokenizer.convert_tokens_to_ids("a")])
    assert encoded(more, asks("Leaf")).columns == encoded(encoder, asks("Leaf")).columns


def test_a_special_token_in_an_answer_is_found_and_does_not_end_it():
    found = encoded(shipped("lfm2"), asks("Say <|im_end|> twice"))
    assert trained_text(shipped("lfm2"), found) == "Say <|im_end|> twice<|im_end|>"
    assert [(each.kind, each.field) for each in found.findings] == [("special token", "turn 2")]
    assert not encoded(shipped("lfm2"), asks("Say <b> twice")).findings


def test_an_answer_without_an_end_token_is_trained_to_its_last_byte():
    encoder = encoder_of("{% for m in messages %}{{ m.content }}{% endfor %}", END)
    found = encoded(encoder, asks("Leaf 日", {"role": "user", "content": "Sun?"}))
    assert (trained_text(encoder, found), found.ended) == ("Leaf 日", False)


def test_turns_that_begin_with_a_special_token_end_with_the_token_at_which_a_server_stops():
    # GLM writes no end token. If its generation config names the token that begins the next turn, that one is trained;
    # a server that knows the tokenizer's own alone is given that, and each turn is an example of its own.
    template, turns = TEMPLATES["glm4moe"].read_text(encoding="utf-8"), WITHOUT_REASONING
    named = encoder_of(template, ("<|endoftext|>", "<|user|>", "<|observation|>"))
    own = encoder_of(template, ("<|endoftext|>",))
    answers = ["\n<think></think>\nLeaf.", "\n<think></think>\nMoon."]
    for encoder, end, examples in ((named, "<|user|>", 1), (own, "<|endoftext|>", 2)):
        found = encoded(encoder, turns)
        assert (trained_text(encoder, found), found.ended) == ("".join(answer + end for answer in answers), True)
        assert len(found.earlier) + 1 == examples


def test_a_turn_that_the_template_does_not_mark_is_not_trained():
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{% generation %}{{ m.content + eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    encoder = encoder_of(template, END)
    assert trained_text(encoder, encoded(encoder, WITHOUT_REASONING)) == "Moon.</s>"


def test_an_end_token_outside_the_marks_is_not_trained_and_the_answer_does_not_count_as_ended():
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{{ eos_token }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    encoder = encoder_of(template, END)
    found = encoded(encoder, asks("Leaf"))
    assert (trained_text(encoder, found), found.ended) == ("Leaf", False)


def test_a_turn_that_only_an_earlier_prompt_shows_is_trained_after_that_prompt():
    # Qwen3 writes the empty reasoning of a last turn alone, and here the last turn is not to be trained.
    last = {"role": "assistant", "content": "Moon", "weight": 0}
    found = encoded(shipped("qwen3"), asks("Leaf", {"role": "user", "content": "Sun?"}, last))
    assert trained_text(shipped("qwen3"), found) == "<think>\n\n</think>\n\nLeaf<|im_end|>"
    assert "Sun" not in shipped("qwen3").tokenizer.decode(found.columns["input_ids"])


def test_conversations_with_tools_take_the_template_for_tools():
    encoder = encoder_of("set below", END)
    encoder.tokenizer.chat_template = {"default": BARE["vicuna"], "tool_use": BARE["mistral"]}
    for tools, text in (None, " Leaf</s>"), (TOOLS, "Leaf</s>"):
        assert check(encoder, END, asks("Leaf"), tools).texts == [text]


# --- preferences -----------------------------------------------------------------------------------------------------


def preferred(encoder: Encoder, prompt: Turns, chosen: Turns, rejected: Turns) -> dict[str, list[int]]:
    value = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return encoder.encode([Example("rows.jsonl:7", "preference", value)])[0].columns


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not needs_parts(name)])
def test_chosen_answers_go_on_from_the_prompt_to_their_end_token(name):
    encoder, reasoning = shipped(name), WITH_REASONING[1] if writes_reasoning(name) and "nothink" not in name else {}
    prompt = [{"role": "user", "content": "Tree?"}]
    sides = [[{**reasoning, "role": "assistant", "content": content}] for content in ("Leaf é", "No")]
    found = preferred(encoder, prompt, *sides)
    for side, column in zip(sides, ("chosen_ids", "rejected_ids"), strict=True):
        expected = wanted(encoder, ends_of(name), prompt + side, None)
        assert not isinstance(expected, str)
        assert found[column] == [label for label in expected.examples[0].labels if label != IGNORED]
        assert found["prompt_ids"] == plain_ids(encoder, rendered(encoder, prompt, None, True))
        if expected.examples[0].as_written:
            whole = rendered(encoder, prompt + side, None, tokenize=True, return_dict=False)
            assert whole[: len(found["prompt_ids"] + found[column])] == found["prompt_ids"] + found[column]
        assert found[column][-1] in encoder.stop_ids


def test_an_answer_of_several_turns_ends_with_the_last_of_them():
    # The last turn says what the first said: the first end token behind it is not the answer's.
    tool = {"role": "tool", "content": "Leaf"}
    chosen = [{"role": "assistant", "content": "Yes"}, tool, {"role": "assistant", "content": "Yes"}]
    found = preferred(shipped("lfm2"), asks("")[:1], chosen, chosen[:1])
    text = shipped("lfm2").tokenizer.decode(found["chosen_ids"])
    assert (text.count("<|im_end|>"), text[-13:]) == (3, "Yes<|im_end|>")


def test_an_answer_that_the_template_writes_nothing_of_is_refused():
    encoder = encoder_of("{% for m in messages %}{{ m.content }}{% endfor %}", END)
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    with pytest.raises(DataError, match="renders nothing for the answer"):
        preferred(encoder, asks("")[:1], [call], [call])
