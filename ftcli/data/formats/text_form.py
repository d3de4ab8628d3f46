"""How pairs, preferences and prompts of plain text are read: as turns, for the chat template, or as bare text.

A chat model is served conversations: `ftcli chat` and `generate` render a question with the tokenizer's template. So by
default the text of a row becomes turns too, and training reads the tokens that serving will send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ftcli.data.formats.conversations import Turn

THROUGH_TEMPLATE = "through the tokenizer's chat template"
_ANSWERS: Mapping[str, tuple[str, ...]] = {
    "pair": ("completion",),
    "label": ("completion",),
    "preference": ("chosen", "rejected"),
    "prompt": (),  # its other columns are for scoring the answer
}


class TextForm(NamedTuple):
    """How the text pairs and prompts of a set are read."""

    as_turns: bool
    about: str
    """As reports say it."""


NO_PROMPT = TextForm(False, "as bare text: without a prompt column, a row does not say where its answer begins")


def text_form(template: str, *, has_template: bool, always: bool = False) -> TextForm:
    """How the text of a set is read.

    Args:
        template: the set's `data.template`.
        has_template: whether the model's tokenizer has a chat template.
        always: whether the method renders all its rows, so that a model without a template is refused.
    """
    if always or (template == "auto" and has_template):
        return TextForm(True, THROUGH_TEMPLATE)
    if template == "auto":
        return TextForm(False, "as bare text: the tokenizer has no chat template")
    return TextForm(False, "as bare text: data.template=none")


def form_of(kind: str, value: Mapping[str, Any]) -> str:
    """How rows are read that leave no choice: turns through the template, plain text bare; "" for a text pair."""
    if is_text(value):
        return ""
    return "as bare text: the rows are plain text" if kind == "text" else THROUGH_TEMPLATE


def is_text(value: Mapping[str, Any]) -> bool:
    """Whether canonical columns hold a prompt of plain text."""
    return isinstance(value.get("prompt"), str)


def as_turns(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical columns of plain text with a user turn as the prompt and an assistant turn as each answer."""
    turns: dict[str, list[Turn]] = {"prompt": [{"role": "user", "content": value["prompt"]}]}
    turns |= {name: [{"role": "assistant", "content": value[name]}] for name in _ANSWERS[kind]}
    return {**value, **turns}


def as_text(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `as_turns`."""
    return {**value, **{name: value[name][0]["content"] for name in ("prompt", *_ANSWERS[kind])}}
