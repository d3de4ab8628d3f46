"""Examples to tokens: exactly those that TRL 1.16 makes of the same rows (tests compare), in batches and with places.

Departs from TRL in two things: a row whose template fails is told by its place in the file, and a chat template without
{% generation %} markers that TRL has no training version of is still masked, by where its rendered prefixes end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli.errors import ConfigError, DataError, Problem
from ftcli.worker.rows import Example

IGNORED = -100
"""The label of a token that is read but not trained."""

Encoded = dict[str, list[int]]
Turns = list[dict[str, Any]]


class Encoder:
    """Turns canonical examples into token rows for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._template: str | None = None
        self._marked: bool | None = None

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """One row of tokens for each example.

        Returns:
            For text, pairs and messages `input_ids` and `labels` of one length; for preferences `prompt_ids`,
            `chosen_ids` and `rejected_ids`.

        Raises:
            DataError: a row that the chat template refuses.
            ConfigError: conversations, and a model without a chat template.
        """
        rows: list[Encoded] = []
        for key, group in groupby(examples, key=_way):
            rows += self._encode_alike(key[0], key[1], list(group))
        return rows

    def _encode_alike(self, kind: str, spoken: bool, group: list[Example]) -> list[Encoded]:
        if kind == "text":
            ids = self._texts([self._closed(e.value["text"]) for e in group])
            return [{"input_ids": row, "labels": list(row)} for row in ids]
        if kind == "messages":
            return self._messages(group)
        sides = ("chosen", "rejected") if kind == "preference" else ("completion",)
        prompts, wholes = self._prompts_and_wholes(group, sides, spoken)
        encode = _preference if kind == "preference" else _completion
        return [encode(prompt, *whole) for prompt, *whole in zip(prompts, *wholes, strict=True)]

    def _prompts_and_wholes(
        self, group: list[Example], sides: tuple[str, ...], spoken: bool
    ) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Token ids of each prompt, and for each side of each prompt with its answer."""
        prompts = [e.value["prompt"] for e in group]
        if not spoken:
            wholes = [self._texts([e.value["prompt"] + self._closed(e.value[side]) for e in group]) for side in sides]
            return self._texts(prompts), wholes
        spoken_wholes = [
            self._rendered(group, [e.value["prompt"] + e.value[side] for e in group], False) for side in sides
        ]
        return self._rendered(group, prompts, True), spoken_wholes

    def prompt_ids(self, turns: Turns | str, tools: Any = None) -> list[int]:
        """Tokens that a model continues from: a conversation with the assistant's turn opened, or plain text."""
        if isinstance(turns, str):
            return self._texts([turns])[0]
        return self._rendered([Example("the prompt", "prompt", {"tools": tools})], [turns], True)[0]

    def _texts(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(text=texts)["input_ids"]
        return ids

    def _closed(self, text: str) -> str:
        end = self.tokenizer.eos_token
        return text if end is None or text.endswith(end) else text + end

    def _rendered(self, group: list[Example], turns: list[Turns], open_answer: bool) -> list[list[int]]:
        ids: list[list[int]] = self._apply(group, turns, add_generation_prompt=open_answer)["input_ids"]
        return ids

    def _apply(self, group: list[Example], turns: list[Turns], **arguments: Any) -> Any:
        self._require_template()
        arguments |= {"tools": group[0].value.get("tools") or None, "return_dict": True}
        try:
            return self.tokenizer.apply_chat_template(turns, **arguments)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            if len(group) == 1:
                what = f"the model's chat template refuses the row: {error}"
                raise DataError(Problem(group[0].where, what, "change its turns, or remove the row")) from None
        for example, own in zip(group, turns, strict=True):
            self._apply([example], [own], **arguments)
        raise AssertionError("the chat template refuses rows only in company")

    def _require_template(self) -> None:
        if self.tokenizer.chat_template is None:
            what = "the data are conversations, and the model's tokenizer has no chat template"
            fix = "use the instruct version of the model, or data of kind text or pair as text"
            raise ConfigError(Problem("model.name_or_path", what, fix))

    def _messages(self, group: list[Example]) -> list[Encoded]:
        turns = [e.value["messages"] for e in group]
        if self._marked is None:
            self._require_template()
            self._template, self._marked = _training_template(self.tokenizer)
        if not self._marked:
            return [self._by_prefixes(example) for example in group]
        arguments = {"return_assistant_tokens_mask": True, "chat_template": self._template}
        found = self._apply(group, turns, **arguments)
        return [
            {"input_ids": ids, "labels": [i if kept else IGNORED for i, kept in zip(ids, mask, strict=True)]}
            for ids, mask in zip(found["input_ids"], found["assistant_masks"], strict=True)
        ]

    def _by_prefixes(self, example: Example) -> Encoded:
        """Masks a conversation by the text that each assistant turn adds to what was rendered before it."""
        turns = example.value["messages"]
        text = self._text(example, turns, False)
        spans = []
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            start, end = self._text(example, turns[:index], True), self._text(example, turns[: index + 1], False)
            if not (text.startswith(end) and end.startswith(start)):
                what = f"the model's chat template renders turn {index} differently once more turns follow"
                fix = "write the row as prompt and completion, so that only its last answer is trained"
                raise DataError(Problem(example.where, what, fix))
            spans.append((len(start), len(end)))
        found = self.tokenizer(text=text, add_special_tokens=False, return_offsets_mapping=True)
        trained = [any(a < end and start < b for a, b in spans) for start, end in found["offset_mapping"]]
        labels = [i if kept else IGNORED for i, kept in zip(found["input_ids"], trained, strict=True)]
        return {"input_ids": found["input_ids"], "labels": labels}

    def _text(self, example: Example, turns: Turns, open_answer: bool) -> str:
        arguments = {"tokenize": False, "return_dict": False, "add_generation_prompt": open_answer}
        try:
            return str(self.tokenizer.apply_chat_template(turns, tools=example.value.get("tools") or None, **arguments))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            what = f"the model's chat template refuses the row: {error}"
            raise DataError(Problem(example.where, what, "change its turns, or remove the row")) from None


def encode_all(encoder: Encoder, examples: Iterator[Example], batch: int = 512) -> Iterator[tuple[Example, Encoded]]:
    """Every example with its tokens, tokenised `batch` at a time."""
    pending: list[Example] = []
    for example in examples:
        pending.append(example)
        if len(pending) == batch:
            yield from zip(pending, encoder.encode(pending), strict=True)
            pending = []
    yield from zip(pending, encoder.encode(pending), strict=True)


def _way(example: Example) -> tuple[str, bool, str]:
    """Rows of one way are tokenised together: same kind, all text or all spoken, same tools."""
    first = example.value.get("prompt")
    return example.kind, isinstance(first, list), repr(example.value.get("tools"))


def _training_template(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, bool]:
    """The template to train with (None: the tokenizer's own) and whether it marks the assistant's turns."""
    if has_generation_markers(tokenizer.chat_template):
        return None, True
    try:
        return get_training_chat_template(tokenizer), True
    except ValueError:  # none that TRL knows
        return None, False


def _common(one: list[int], other: list[int]) -> int:
    """How many leading tokens both have in common."""
    for index, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            return index
    return min(len(one), len(other))


def _completion(prompt: list[int], whole: list[int]) -> Encoded:
    # Tokens may merge across the boundary: the completion starts where the two token rows part.
    start = _common(prompt, whole)
    return {"input_ids": whole, "labels": [IGNORED] * start + whole[start:]}


def _preference(prompt: list[int], chosen: list[int], rejected: list[int]) -> Encoded:
    start = min(_common(prompt, chosen), _common(prompt, rejected))
    return {"prompt_ids": prompt[:start], "chosen_ids": chosen[start:], "rejected_ids": rejected[start:]}
