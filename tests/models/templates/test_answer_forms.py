"""What a model must write after the prompt, in worked texts."""

from __future__ import annotations

import pytest

from ftcli.models.templates.answer_forms import continuation, reasoning_of, without_reasoning
from ftcli.models.templates.answer_parts import Parts, Structure

QWEN = Structure(marker="</think>", opening="<think>", generation_prompt="<|im_start|>assistant\n")
R1 = Structure(marker="</think>", opened="<think>", generation_prompt="<A><think>\n")
HARMONY = Structure(
    marker="<|channel|>final<|message|>",
    opening="<|channel|>analysis<|message|>",
    closing="<|end|><|start|>assistant",
    generation_prompt="<|start|>assistant",
)


@pytest.mark.parametrize(
    ("text", "turn", "written"),
    [
        ("<A><think>\nWhy.\n</think>\n\nLeaf.<E>", {}, "Why.\n</think>\n\nLeaf.<E>"),  # goes on from the prompt
        ("<A><think></think>Leaf.<E>", {}, "</think>Leaf.<E>"),  # empty reasoning in another form
        ("<A>Leaf.<E>", {}, "\n</think>\n\nLeaf.<E>"),  # no reasoning is written at all
        ("<A>Leaf.<E>", {"reasoning_content": "Why.\n"}, "Why.\n</think>\n\nLeaf.<E>"),
        ("<A>\n\nLeaf.<E>", {"content": "<think>\nWhy.\n</think>\n\nLeaf."}, "Why.\n</think>\n\nLeaf.<E>"),
        ("<B>Leaf.<E>", {}, None),  # another turn
    ],
)
def test_a_prompt_that_opens_the_reasoning_is_continued_inside_it(text, turn, written):
    assert continuation("<A><think>\n", text, "<think>\n", turn) == written


def test_reasoning_is_read_from_its_key_or_from_the_start_of_the_text():
    assert reasoning_of({"thinking": " So. "}) == "So."
    assert reasoning_of({"content": "<think>So.</think> Leaf"}) == "So."
    assert reasoning_of({"content": "Leaf <think>So.</think>"}) == ""
    turns = [{"role": "user", "content": "<think>a</think>b"}, {"role": "assistant", "content": "<think>a</think>b"}]
    assert [turn["content"] for turn in without_reasoning(turns)] == ["<think>a</think>b", "b"]


@pytest.mark.parametrize(
    ("structure", "text", "parts"),
    [
        (QWEN, "<think>\nWhy.\n</think>\n\nLeaf.", ("Why.", "\n\nLeaf.")),
        (QWEN, "Leaf.", ("", "Leaf.")),  # an answer that did not think
        (QWEN, "<think>\nWhy", ("Why", "")),  # cut off
        (R1, "Why.\n</think>\n\nLeaf </think>", ("Why.", "\n\nLeaf </think>")),
        (R1, "Why", ("Why", "")),
        (HARMONY, "<|channel|>final<|message|>Leaf.", ("", "Leaf.")),
        (HARMONY, "<|channel|>analysis<|message|>Why.<|end|><|start|>assistant<|channel|>final<|message|>Leaf.",
         ("Why.", "Leaf.")),
        (Structure(), "<think>Why.</think> Leaf.", ("", "<think>Why.</think> Leaf.")),
    ],
)  # fmt: skip
def test_an_answer_is_divided_at_what_stands_before_its_final_part(structure, text, parts):
    assert structure.divided(text) == Parts(*parts)


def test_an_answer_to_what_does_not_end_in_the_generation_prompt_has_no_structure():
    assert R1.of_prompt("<U>Tree?<A><think>\n") is R1
    assert R1.of_prompt("<results>green</results>") == Structure()
