"""The built-in tokenizer and template: any text survives, answers are marked, prompts are exact prefixes."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from ftcli.tiny import MODEL_DIR

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 3 + 4 in total?"},
    {"role": "assistant", "content": "7"},
    {"role": "user", "content": "Say it politely.\n"},
    {"role": "assistant", "content": "\n Gladly, 7."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.mark.parametrize(
    "text", ["a\t b  c\r\n\n x", "été 日本 😀 <b>", "  lead", "def f(x):\n    return x  \n", "don't"]
)
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_spaced_letters_and_digits_are_single_tokens(tokenizer):
    for letter in "abcdefghijklmnopqrstuvwxyz":
        assert len(tokenizer.encode(f" {letter}")) == 1
    assert tokenizer.tokenize(" 1234") == ["Ġ1", "2", "3", "4"]


def test_end_of_turn_ends_the_text_and_is_not_padding(tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_mask_marks_the_answers_with_their_ends_and_nothing_else(tokenizer):
    rendered = tokenizer.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == " 7<|im_end|> Gladly, 7.<|im_end|>"


@pytest.mark.parametrize("num_messages", [3, 5])
def test_a_prompt_is_an_exact_prefix_of_the_conversation(tokenizer, num_messages):
    whole = tokenizer.apply_chat_template(CONVERSATION[:num_messages], return_dict=True)["input_ids"]
    prompt = tokenizer.apply_chat_template(
        CONVERSATION[: num_messages - 1], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert len(whole) > len(prompt)
