"""Answer parts: the reasoning and the final part of an answer, by the structure that its chat template gives it.

The structure is found out by rendering probes through `ServedTexts`: what stands between the reasoning and the text of
an answer, and before the text of an answer without reasoning. What both end with (`</think>`, or
`<|channel|>final<|message|>`) begins the final part of every answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ftcli.core.errors import DataError
from ftcli.models.templates.served_texts import ServedTexts, Unservable

_TEXT, _REASONING = "zq7", "zq8"


class Parts(NamedTuple):
    """An answer: its reasoning, "" for none, and its final part, "" if the answer was cut off before it."""

    reasoning: str
    final: str


@dataclass(frozen=True)
class Structure:
    """How the answers of one template are divided; all empty where the template has no such structure."""

    marker: str = ""
    """What stands before the final part."""
    opening: str = ""
    """What an answer with reasoning begins with, unless the prompt has opened the reasoning."""
    closing: str = ""
    """What stands between the reasoning and the marker."""
    opened: str = ""
    """The tag with which the generation prompt has opened the reasoning."""
    generation_prompt: str = ""

    def of_prompt(self, prompt_end: str) -> Structure:
        """The structure of answers to a prompt that ends so: none where it does not end in the generation prompt, as
        bare text and the results of some templates' tools."""
        own = self.generation_prompt.rstrip()
        return self if own and prompt_end.rstrip().endswith(own) else Structure()

    def divided(self, text: str) -> Parts:
        """The parts of an answer, special tokens and all, without its end token."""
        if self.marker and self.marker in text:
            head, _, final = text.partition(self.marker)
            return Parts(self._reasoning(head), final)
        begun = self.opening and text.lstrip().startswith(self.opening)
        return Parts(self._reasoning(text), "") if self.marker and (begun or self.opened) else Parts("", text)

    def _reasoning(self, head: str) -> str:
        return head.strip().removeprefix(self.opening).removesuffix(self.closing).strip()


def structure_of(texts: ServedTexts) -> Structure:
    """The structure of a chat template's answers."""
    plain, reasoned = _answer(texts, {}), _answer(texts, {"reasoning_content": _REASONING})
    generation_prompt = texts.forms.generation_prompt(None)
    before = plain.partition(_TEXT)[0].strip() if plain else ""
    lead, found, rest = (reasoned or "").partition(_REASONING)
    if not found or _TEXT not in rest:
        return Structure(marker=before, generation_prompt=generation_prompt)
    between = rest.partition(_TEXT)[0].strip()
    marker = _common_end(between, before) if before else between
    opened = texts.forms.opened(generation_prompt, None).strip()
    closing = between[: len(between) - len(marker)].strip()
    return Structure(marker.strip(), lead.strip(), closing, opened, generation_prompt)


def _answer(texts: ServedTexts, more: dict[str, Any]) -> str | None:
    """What a model writes to say a text, perhaps with reasoning; None where the template cannot."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _TEXT, **more}]
    try:
        [found] = texts.examples(None, texts.forms.adapted(turns), [1], None, unroll=True)
    except (DataError, Unservable):
        return None
    return found.text[found.answers[0].start : found.answers[0].end]


def _common_end(one: str, other: str) -> str:
    length = next((n for n in range(min(len(one), len(other)), 0, -1) if one.endswith(other[-n:])), 0)
    return one[len(one) - length :]
