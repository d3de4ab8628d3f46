"""What is trained against what is served: the same tokens, turn by turn, or the row is refused with the difference.

When a model is served, it is given the turns so far, rendered by the tokenizer's own chat template with the answer
opened, and goes on from there until it says an end token. So an assistant turn may be trained only where

- the rendered conversation begins with exactly that prompt, in text and in tokens, and
- what follows is what the template gives for the conversation up to this turn.

Some templates write earlier turns differently once more follow (they strip the reasoning, say). Then only the last turn
is one that serving knows, and only it is trained; the ledger counts these rows.

Where the template marks what the assistant says ({% generation %}), or TRL has a training version of it that does, no
token outside the marks is trained either.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from tokenizers import Encoding
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli.data.findings import Finding
from ftcli.data.scan import Example
from ftcli.errors import ConfigError, DataError, Problem, RowProblem

Turns = list[dict[str, Any]]
Span = tuple[int, int]

OWN, VARIANT, PROMPTS = "the tokenizer's own marks", "marks of TRL's training version", "the serving prompts"
"""By what the assistant's turns are told from the rest."""
_SHOWN_TOKENS = 6
_CHANGE = "change its turns, or remove the row"


class Answer(NamedTuple):
    """One assistant turn in a rendered conversation: characters [start, end), without what the marks leave out."""

    turn: int
    start: int
    end: int
    ended: bool
    """Whether it closes with an end token."""
    marks: tuple[Span, ...]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and the turns of it that are trained."""

    text: str
    answers: list[Answer]
    last_turn_only: bool = False


class Serving:
    """The chat template of a tokenizer, and what it serves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.template = _template_of(tokenizer)
        self.marks, self._marking = _marking_template(tokenizer, self.template)
        self._special = dict(tokenizer.special_tokens_map)
        added = tokenizer.added_tokens_decoder
        self._added_ids = frozenset(added)
        self._stops = [tokenizer.convert_ids_to_tokens(i) for i in sorted(stop_ids)]
        names = sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._initials = frozenset(name[0] for name in names)
        self._backend = tokenizer.backend_tokenizer
        self._section_ids = lru_cache(4096)(self._ids_of)

    # --- text --------------------------------------------------------------------------------------------------------

    def prompt(self, example: Example, turns: Turns, tools: Any) -> str:
        """The turns with the assistant's next one opened, as they are served.

        Raises:
            DataError: the template refuses them.
        """
        return self._text(example, turns, tools, opened=True)

    def render(self, example: Example, turns: Turns, asked: list[int], tools: Any, marked: bool) -> Rendered:
        """A conversation with the answers in the turns `asked` for.

        Args:
            marked: whether the template's marks narrow what is trained.

        Raises:
            DataError: the template refuses it, or not even its last turn is trained as it is served.
        """
        text, marks = self._whole(example, turns, tools, marked)
        answers, rewritten = [], False
        for index in asked:
            found = self._answer(example, turns, index, tools, text, marks)
            if found is None:
                rewritten = True
            else:
                answers.append(found)
        if rewritten:
            answers = [answer for answer in answers if answer.turn == asked[-1]]
            if not answers:
                self._refuse_prompt(example, turns, asked[-1], tools, text)
        return Rendered(text, answers, rewritten)

    def render_answer(self, example: Example, turns: Turns, start: int, tools: Any) -> Rendered:
        """A conversation whose turns from `start` on are one answer, tool results and all.

        Raises:
            DataError: as `render`.
        """
        text, _ = self._whole(example, turns, tools, False)
        prompt = self._text(example, turns[:start], tools, opened=True)
        if not text.startswith(prompt):
            self._refuse_prompt(example, turns, start, tools, text)
        length, ended = self._length(text[len(prompt) :], turns[-1])
        return Rendered(text, [Answer(start, len(prompt), len(prompt) + length, ended, ())])

    def _whole(self, example: Example, turns: Turns, tools: Any, marked: bool) -> tuple[str, list[Span] | None]:
        """The conversation as text, and the spans that the marks allow (None: all)."""
        if not marked or self.marks == PROMPTS:
            return self._text(example, turns, tools, opened=False), None
        if self.marks == OWN:
            return self._rendered(example, turns, tools, self.template, opened=False, marks=True)
        text = self._text(example, turns, tools, opened=False)
        theirs, marks = self._rendered(example, turns, tools, self._marking, opened=False, marks=True)
        return text, marks if theirs == text else None

    def _answer(
        self, example: Example, turns: Turns, index: int, tools: Any, text: str, marks: list[Span] | None
    ) -> Answer | None:
        """The answer of turn `index`, or None where the whole conversation shows it differently."""
        prompt = self._text(example, turns[:index], tools, opened=True)
        if not text.startswith(prompt):
            return None
        last = index == len(turns) - 1
        served = text if last else self._text(example, turns[: index + 1], tools, opened=False)
        if not served.startswith(prompt):
            return None
        start = len(prompt)
        length, ended = self._length(served[start:], turns[index])
        if not last and not text.startswith(served[start : start + length], start):
            return None
        if marks is None:
            return Answer(index, start, start + length, ended, ((start, start + length),))
        end = start + length
        allowed = tuple((max(start, a), min(end, b)) for a, b in marks if a < end and start < b)
        return Answer(index, start, end, ended and bool(allowed) and allowed[-1][1] == end, allowed)

    def _length(self, answer: str, turn: dict[str, Any]) -> tuple[int, bool]:
        """Characters of an answer up to its end token, and whether it has one: the first behind what the turn says."""
        said = (turn.get("content") or "").strip()
        at = answer.find(said)
        behind = at + len(said) if at >= 0 else 0
        ends = [place + len(stop) for stop in self._stops if (place := answer.find(stop, behind)) >= 0]
        if ends:
            return min(ends), True
        special = [found.end() for found in self._specials.finditer(answer, behind)]
        return (special[-1], True) if special else (len(answer), False)

    def _text(self, example: Example, turns: Turns, tools: Any, *, opened: bool) -> str:
        return self._rendered(example, turns, tools, self.template, opened=opened, marks=False)[0]

    def _rendered(
        self, example: Example, turns: Turns, tools: Any, template: str, *, opened: bool, marks: bool
    ) -> tuple[str, list[Span]]:
        try:
            texts, spans = render_jinja_template(
                conversations=[turns],
                tools=tools or None,
                chat_template=template,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=opened,
                **self._special,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"the model's chat template refuses the row: {error}"
            raise DataError(RowProblem(example.where, what, _CHANGE)) from None
        return texts[0], spans[0] if spans else []

    # --- tokens ------------------------------------------------------------------------------------------------------

    def token_spans(self, example: Example, text: str, encoding: Encoding, answer: Answer) -> list[Span]:
        """The tokens [start, end) of an answer, those outside the marks left out.

        Raises:
            DataError: the tokens before the answer are not those that serving gives.
        """
        if answer.start == answer.end:
            return []
        first = self._token_at(encoding, answer.start)
        ids, offsets = encoding.ids, encoding.offsets
        section = first - 1
        while section >= 0 and ids[section] not in self._added_ids:
            section -= 1
        # An added token parts what stands before it from what stands behind: the rest of the prompt is the same.
        begin = offsets[section][0] if section >= 0 else 0
        served = self._section_ids(text[begin : answer.start])
        trained = ids[max(section, 0) : first]
        if offsets[first][0] != answer.start or served != trained:
            self._refuse_tokens(example, served, ids[max(section, 0) : first + 2])
        spans = answer.marks or ((answer.start, answer.end),)
        return [
            (self._token_at(encoding, start), self._last_token_at(encoding, end - 1) + 1)
            for start, end in spans
            if start < end
        ]

    @staticmethod
    def _token_at(encoding: Encoding, character: int) -> int:
        """The first token that holds a character, or the next where a normaliser has left it out."""
        found = encoding.char_to_token(character)
        if found is None:
            found = bisect_left(encoding.offsets, (character, character))
        while found > 0 and encoding.offsets[found - 1] == encoding.offsets[found]:
            found -= 1  # a character of several tokens
        return int(found)

    @staticmethod
    def _last_token_at(encoding: Encoding, character: int) -> int:
        """The last token that holds a character."""
        found = encoding.char_to_token(character)
        if found is None:
            found = bisect_left(encoding.offsets, (character, character)) - 1
        offsets = encoding.offsets
        while found + 1 < len(offsets) and offsets[found + 1] == offsets[found]:
            found += 1
        return int(found)

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def special_tokens_in(self, turns: Turns) -> list[Finding]:
        """Turns whose own text holds what the tokenizer reads as a special token."""
        found = []
        for index, turn in enumerate(turns):
            content = turn.get("content") or ""
            if any(initial in content for initial in self._initials) and (token := self._specials.search(content)):
                what = f"holds the text {token.group()}, which the tokenizer reads as a special token"
                found.append(Finding("special token", f"turn {index + 1}", what))
        return found

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _refuse_prompt(self, example: Example, turns: Turns, index: int, tools: Any, text: str) -> None:
        prompt = self._text(example, turns[:index], tools, opened=True)
        self._refuse_tokens(example, self._ids_of(prompt), self._ids_of(text))

    def _refuse_tokens(self, example: Example, served: list[int], trained: list[int]) -> None:
        at = next(
            (i for i, (a, b) in enumerate(zip(served, trained, strict=False)) if a != b), min(len(served), len(trained))
        )
        shown = slice(max(0, at - 2), at + _SHOWN_TOKENS)
        what = (
            f"is not trained as it will be served: the prompt ends in {self._words(served[shown])}, "
            f"in training {self._words(trained[shown])}"
        )
        fix = "remove white space at the answer's beginning, or leave the row out with data.max_bad_share"
        raise DataError(RowProblem(example.where, what, fix))

    def _words(self, ids: list[int]) -> str:
        return " ".join(repr(self.tokenizer.decode([i])) for i in ids) or "nothing"


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    template = tokenizer.chat_template
    if template is None:
        what = "the data are conversations, and the model's tokenizer has no chat template"
        fix = "use the instruct version of the model, or data of kind text or pair as text"
        raise ConfigError(Problem("model.name_or_path", what, fix))
    return str(template["default"] if isinstance(template, dict) else template)


def _marking_template(tokenizer: PreTrainedTokenizerBase, own: str) -> tuple[str, str]:
    """By what assistant turns are told apart, and the template that marks them."""
    if has_generation_markers(own):
        return OWN, own
    try:
        variant = get_training_chat_template(tokenizer)
    except ValueError:  # none that TRL knows
        variant = None
    return (VARIANT, variant) if variant else (PROMPTS, own)
