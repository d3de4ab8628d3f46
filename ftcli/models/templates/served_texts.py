"""Served texts: the training examples that a conversation becomes, as text, each exactly as it is served.

A served model receives the turns so far, rendered with the chat template plus the generation prompt, and goes on until
it writes an end token. One text shows several turns that way only if the template never rewrites an earlier turn; else
the conversation is unrolled, and each trained turn is an example of its own. The worker trains these texts; the plan
counts their tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ftcli.core.errors import DataError, RowProblem
from ftcli.models.templates.answer_forms import Forms, Turns, continuation, without_reasoning

Render = Callable[[Any, Turns, Any, bool], str]
"""Row (for its place in errors), turns, tools, and whether the generation prompt follows → text; raises DataError."""
_WORD = re.compile(r"\w+")


def pieces_of(text: str, apart: int) -> list[str]:
    """A text in two at `apart`; whole if that is 0."""
    return [text[:apart], text[apart:]] if apart else [text]


class ServedAnswer(NamedTuple):
    """The answer of one turn: characters [start, end) of a text."""

    turn: int
    start: int
    end: int
    ended: bool
    """Whether it closes with an end token."""
    closing: str = ""
    """The end token in it that the template writes with the next turn, or never."""
    said: int = 0
    """Where what the turn says begins: before `start` if the prompt opens the reasoning."""


@dataclass(frozen=True)
class ServedText:
    """One training example."""

    text: str
    answers: tuple[ServedAnswer, ...]
    turns: int
    """How many turns of the conversation it holds."""
    written: str | None
    """These turns as the template writes them; None if the text is no beginning of that."""
    apart: int = 0
    """Where the text is divided to be tokenised in two parts, as prompt and answer are in serving; 0: it is tokenised
    whole."""

    @property
    def pieces(self) -> list[str]:
        """The texts to tokenise, whose tokens follow each other."""
        return pieces_of(self.text, self.apart)


class Unservable(Exception):
    """The template writes a turn differently than as a continuation of the prompt that is served before it."""

    def __init__(self, turn: int, prompt: str, text: str) -> None:
        """`prompt`: what is served; `text`: the turns as the template writes them."""
        super().__init__(turn, prompt, text)
        self.turn, self.prompt, self.text = turn, prompt, text


class ServedTexts:
    """The training examples of conversations, for one chat template."""

    def __init__(self, render: Render, stops: Sequence[str], specials: re.Pattern[str], own_end: str) -> None:
        """
        Args:
            stops: the end tokens of the model.
            specials: finds special tokens, end tokens among them.
            own_end: the tokenizer's end token, "" for none.
        """
        self._render, self._stops, self._specials = render, list(stops), specials
        self._own_end = own_end if own_end in self._stops or not self._stops else self._stops[0]
        self.forms = Forms(lambda turns, tools, opened: render(None, turns, tools, opened), self._stops)

    def prompt(self, row: Any, turns: Turns, tools: Any) -> str:
        """The turns followed by the generation prompt, as they are served.

        Raises:
            DataError: the template refuses them.
        """
        return self._render(row, self.forms.adapted(turns), tools, True)

    def examples(self, row: Any, turns: Turns, trained: Sequence[int], tools: Any, unroll: bool) -> list[ServedText]:
        """All of a conversation, or an example for each trained turn where no one text shows them all as served.

        Args:
            turns: as `Forms.adapted` gives them.
            trained: indices of the assistant turns to train.
            unroll: whether each trained turn is an example of its own in any case.

        Raises:
            DataError: the template refuses the conversation, or drops a turn's text.
            Unservable: one of its turns cannot be trained as it is served.
        """
        whole = None if unroll else self._together(row, turns, trained, tools)
        return [whole] if whole else [self._alone(row, turns, index, tools) for index in trained]

    def answer(self, row: Any, turns: Turns, start: int, tools: Any) -> ServedText:
        """A conversation whose turns from `start` on are one answer, tool results and all.

        Args:
            turns: as `Forms.adapted` gives them.

        Raises:
            DataError: as `examples`.
            Unservable: as `examples`.
        """
        if start == len(turns) - 1:
            return self._alone(row, turns, start, tools)
        text = self._render(row, turns, tools, False)
        prompt = self._render(row, turns[:start], tools, True)
        if not text.startswith(prompt):
            raise Unservable(start, prompt, text)
        # Earlier turns of the answer may repeat its text, and have end tokens of their own.
        before = self._render(row, turns[:-1], tools, True)
        last = max(len(prompt), _common(text, before))
        whole, closing = self._closed(row, turns, tools, text, last)
        length, ended = self._length(row, whole[last:], turns[-1])
        said = len(prompt) - len(self.forms.opened(prompt, tools))
        answer = ServedAnswer(start, len(prompt), last + length, ended, closing, said)
        return ServedText(whole, (answer,), len(turns), text)

    def _together(self, row: Any, turns: Turns, trained: Sequence[int], tools: Any) -> ServedText | None:
        """All trained turns in one text; None if it shows one of them differently than serving does."""
        written = text = self._render(row, turns, tools, False)
        closing = ""
        if trained[-1] == len(turns) - 1 and not text.rstrip().endswith(tuple(self._stops)):
            prompt = self._render(row, turns[:-1], tools, True)
            if text.startswith(prompt):
                text, closing = self._closed(row, turns, tools, text, len(prompt))
        answers = []
        for index in trained:
            answer = self._within(row, turns, index, tools, text, closing)
            if answer is None:
                return None
            answers.append(answer)
        return ServedText(text, tuple(answers), len(turns), written)

    def _within(self, row: Any, turns: Turns, index: int, tools: Any, text: str, closing: str) -> ServedAnswer | None:
        """The answer of turn `index`, or None if the whole conversation shows it differently than serving does.

        Args:
            closing: the end token of the last turn that the template does not write.
        """
        # Serving renders the turns up to here and no further, so both texts must agree up to the end of this answer.
        prompt = self._render(row, turns[:index], tools, True)
        if not text.startswith(prompt):
            return None
        start, last = len(prompt), index == len(turns) - 1
        served = text if last else self._render(row, turns[: index + 1], tools, False)
        opened = self.forms.opened(prompt, tools)
        if not served.startswith(prompt) or (opened and served[start : start + 1].isspace()):
            return None
        length, ended = self._length(row, served[start:], turns[index])
        end = start + length
        if not last and not text.startswith(served[start:end], start):
            return None
        if ended or last:
            return ServedAnswer(index, start, end, ended, closing if last else "", start - len(opened))
        closing = next((stop for stop in self._stops if text.startswith(stop, end)), "")
        if self._can_end and not closing:
            return None  # it ends in serving only, with a token that the whole conversation does not show
        return ServedAnswer(index, start, end + len(closing), bool(closing), closing, start - len(opened))

    def _alone(self, row: Any, turns: Turns, index: int, tools: Any) -> ServedText:
        """The example of one turn: the prompt that is served, and what the model must then write."""
        prompt = self._render(row, turns[:index], tools, True)
        turn, upto = turns[index], turns[: index + 1]
        written = self._render(row, upto, tools, False)
        opened = self.forms.opened(prompt, tools)
        answer = continuation(prompt, written, opened, turn)
        if answer is None and (plain := without_reasoning(turns[:index])) != turns[:index]:
            # The template rewrites the reasoning before this turn once it is there; serving reads it unrewritten.
            before, through = self._render(row, plain, tools, True), self._render(row, [*plain, turn], tools, False)
            answer = continuation(before, through, opened, turn)
        if answer is None:
            raise Unservable(index, prompt, written)
        start, whole = len(prompt), written.startswith(prompt)
        text = prompt + answer
        text, closing = self._closed(row, upto, tools, text, start)
        length, ended = self._length(row, text[start:], turn)
        text = text if whole else text[: start + length]
        found = ServedAnswer(index, start, start + length, ended, closing, start - len(opened))
        divided = start if opened and (not whole or answer[:1].isspace()) else 0
        return ServedText(text, (found,), len(upto), written if whole else None, divided)

    def _closed(self, row: Any, turns: Turns, tools: Any, text: str, start: int) -> tuple[str, str]:
        """A text whose last turn's answer begins at `start`, with the end token that this answer lacks, and that token,
        "" if it lacks none.

        The token is the one that begins the next turn, or else the tokenizer's own: a server stops at both.
        """
        length, ended = self._length(row, text[start:], turns[-1])
        if ended or not self._can_end:
            return text, ""
        end = self.forms.next_end(turns[-1], tools) or self._own_end
        return text[: start + length] + end, end

    @cached_property
    def _can_end(self) -> bool:
        """Whether an answer that has no end token can get one: the template has special tokens around its turns. One
        without any is not made for a model that ends its answers."""
        return bool(self._stops) and (
            self.forms.ends_answers or self._specials.match(self.forms.after_answer) is not None
        )

    def _length(self, row: Any, answer: str, turn: dict[str, Any]) -> tuple[int, bool]:
        """The length of an answer in characters including its end token, and whether it has one.

        The end token is the first one after the turn's own text, which may itself contain such a token.

        Raises:
            DataError: the template drops the turn's text.
        """
        content = (turn.get("content") or "").strip()
        at = answer.find(content)
        after = at + len(content) if at >= 0 else 0
        # Templates may strip reasoning and white space, and some render only a tool call. All others keep the last
        # word.
        if at < 0 and not turn.get("tool_calls") and (words := _WORD.findall(content)) and words[-1] not in answer:
            what = f"the model's chat template drops the assistant's text: {words[-1]!r} is not in {answer!r}"
            fix = "use a model whose template takes text, or remove the row"
            raise DataError(RowProblem(getattr(row, "where", ""), what, fix))
        ends = [place + len(stop) for stop in self._stops if (place := answer.find(stop, after)) >= 0]
        if ends:
            return min(ends), True
        # No end token of the model: a special token that closes the turn is the best sign of its end, unless the
        # template does end other answers.
        special = [found.end() for found in self._specials.finditer(answer, after)]
        return (special[-1], not self.forms.ends_answers) if special else (len(answer), False)


def _common(one: str, other: str) -> int:
    """How many leading characters both have in common."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next((at for at in range(length) if one[at] != other[at]), length)


class TextsByVariables:
    """`ServedTexts` for each choice of template variables that rows make, each made once: what the generation prompt
    opens, for one, may depend on them."""

    def __init__(self, make: Callable[[Mapping[str, Any]], ServedTexts]) -> None:
        self._make, self._made = make, dict[str, ServedTexts]()

    def of(self, variables: Mapping[str, Any] | None = None) -> ServedTexts:
        """Those for the variables of a row; None where it has none."""
        key = json.dumps(variables or {}, sort_keys=True)
        if key not in self._made:
            self._made[key] = self._make(variables or {})
        return self._made[key]
