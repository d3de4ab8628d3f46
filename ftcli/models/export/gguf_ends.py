"""Where llama.cpp ends an answer to a GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# llama.cpp takes tokens of these texts for ends of an answer, whatever the file says (llama-vocab.cpp).
_BY_TEXT = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|end_of_text|>"}
)
_CONTROL = 3
"""The type of tokens that are no text."""


def ends_of(said: Mapping[str, Any]) -> set[str]:
    """The tokens at which llama.cpp ends an answer by itself, as text.

    Args:
        said: what a GGUF file says of itself.
    """
    tokens = said.get("tokenizer.ggml.tokens") or []
    numbers = [said[key] for key in _KEYS if isinstance(said.get(key), int) and 0 <= said[key] < len(tokens)]
    types = said.get("tokenizer.ggml.token_type") or [_CONTROL] * len(tokens)
    special = {text for text, kind in zip(tokens, types, strict=False) if kind == _CONTROL}
    return {str(tokens[number]) for number in numbers} | (special & _BY_TEXT)


def unknown_ends(said: Mapping[str, Any], trained: Iterable[str]) -> list[str]:
    """The tokens that end answers as a model was trained, and at which llama.cpp would go on."""
    known = ends_of(said)
    return [end for end in trained if end not in known]
