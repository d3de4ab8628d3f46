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
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.data.quality_checks import Finding
from ftcli.data.row_ledger import SPECIAL
from ftcli.data.scan import Example
from ftcli.worker.tokenise.answer_spans import Answer, Span, Spans, Unserved, common

Turns = list[dict[str, Any]]

OWN, VARIANT, PROMPTS = "the tokenizer's own marks", "marks of TRL's training version", "the serving prompts"
"""By what the assistant's turns are told from the rest."""
_SHOWN_TOKENS = 6
_CHANGE = "change its turns, or remove the row"
_SPACE = "remove white space at the answer's beginning, or leave the row out with data.max_bad_share"
_OPENING = "begin the answer as the template opens it (with reasoning, say), or leave it out with data.max_bad_share"
_WORD = re.compile(r"\w+")


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
        self.template, self._tool_template = _templates_of(tokenizer)
        self.marks, self._marking = _marking_template(tokenizer, self.template)
        self._special = dict(tokenizer.special_tokens_map)
        added = tokenizer.added_tokens_decoder
        # A generation config may name ids that are ordinary text, or that the tokenizer lacks: neither ends an answer.
        self._stops = [added[i].content for i in sorted(stop_ids) if i in added]
        special = {token.content for token in added.values() if token.special} | set(self._stops)
        names = sorted(special - {""}, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._initials = frozenset(name[0] for name in names)
        self.spans = Spans(tokenizer, self._stops)

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
        found = [self._answer(example, turns, index, tools, text, marks) for index in asked]
        rewritten = None in found
        if rewritten and found[-1] is None:
            self._refuse_turn(example, turns, asked[-1], tools, text)
        answers = [answer for answer in (found[-1:] if rewritten else found) if answer is not None]
        return Rendered(text, answers, rewritten)

    def render_answer(self, example: Example, turns: Turns, start: int, tools: Any) -> Rendered:
        """A conversation whose turns from `start` on are one answer, tool results and all.

        Raises:
            DataError: as `render`.
        """
        text = self._text(example, turns, tools, opened=False)
        prompt = self._text(example, turns[:start], tools, opened=True)
        if not text.startswith(prompt):
            self._refuse_turn(example, turns, start, tools, text)
        last = len(prompt)
        if len(turns) > start + 1:  # earlier turns of the answer may say the same, and have end tokens of their own
            last = max(last, common(text, self._text(example, turns[:-1], tools, opened=True)))
        length, ended = self._length(example, text[last:], turns[-1])
        span = (len(prompt), last + length)
        if span[0] == span[1]:
            what = "the model's chat template writes nothing for the answer"
            raise DataError(RowProblem(example.where, what, _CHANGE))
        return Rendered(text, [Answer(start, *span, ended, (span,))])

    def _whole(self, example: Example, turns: Turns, tools: Any, marked: bool) -> tuple[str, list[Span] | None]:
        """The conversation as text, and the spans that the marks allow (None: all)."""
        own, marks, marking = self.template, self.marks, self._marking
        if tools and self._tool_template != own:
            own = marking = self._tool_template
            marks = OWN if has_generation_markers(own) else PROMPTS
        if marked and marks == OWN:
            return self._rendered(example, turns, tools, own, opened=False, marks=True)
        text = self._text(example, turns, tools, opened=False)
        if not marked or marks == PROMPTS:
            return text, None
        theirs, spans = self._rendered(example, turns, tools, marking, opened=False, marks=True)
        return text, spans if theirs == text else None

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
        length, ended = self._length(example, served[start:], turns[index])
        end = start + length
        if not last and not text.startswith(served[start:end], start):
            return None
        if marks is None:
            return Answer(index, start, end, ended, ((start, end),))
        allowed = tuple((max(start, a), min(end, b)) for a, b in marks if a < end and start < b)
        return Answer(index, start, end, ended and bool(allowed) and allowed[-1][1] == end, allowed)

    def _length(self, example: Example, answer: str, turn: dict[str, Any]) -> tuple[int, bool]:
        """Characters of an answer up to its end token, and whether it has one: the first behind what the turn says.

        Raises:
            DataError: the template leaves out what the turn says.
        """
        said = (turn.get("content") or "").strip()
        at = answer.find(said)
        behind = at + len(said) if at >= 0 else 0
        # Templates strip reasoning and white space, and some write a call alone, but the last word is in all others.
        if at < 0 and not turn.get("tool_calls") and (words := _WORD.findall(said)) and words[-1] not in answer:
            what = f"the model's chat template leaves out what the assistant says: {words[-1]!r} is not in {answer!r}"
            raise DataError(RowProblem(example.where, what, "use a model whose template takes text, or remove the row"))
        ends = [place + len(stop) for stop in self._stops if (place := answer.find(stop, behind)) >= 0]
        if ends:
            return min(ends), True
        special = [found.end() for found in self._specials.finditer(answer, behind)]
        return (special[-1], True) if special else (len(answer), False)

    def _text(self, example: Example, turns: Turns, tools: Any, *, opened: bool) -> str:
        template = self._tool_template if tools else self.template
        return self._rendered(example, turns, tools, template, opened=opened, marks=False)[0]

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

    def token_spans(self, example: Example, text: str, ids: list[int], answer: Answer) -> list[Span]:
        """The tokens [start, end) of an answer that are trained.

        Raises:
            DataError: the tokens before the answer are not those that serving gives.
        """
        try:
            return self.spans.of(text, ids, answer)
        except Unserved as difference:
            self._refuse_tokens(example, difference.served, difference.trained, _SPACE)

    def special_tokens_in(self, turns: Turns) -> list[Finding]:
        """Turns whose own text holds what the tokenizer reads as a special token."""
        found = []
        for index, turn in enumerate(turns):
            content = turn.get("content") or ""
            if any(initial in content for initial in self._initials) and (token := self._specials.search(content)):
                what = f"holds the text {token.group()}, which the tokenizer reads as a special token"
                found.append(Finding(SPECIAL, f"turn {index + 1}", what))
        return found

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _refuse_turn(self, example: Example, turns: Turns, index: int, tools: Any, text: str) -> NoReturn:
        """A turn that the whole conversation shows differently: its prompt, or else what serving goes on with."""
        served = self._text(example, turns[:index], tools, opened=True)
        if text.startswith(served):
            served = self._text(example, turns[: index + 1], tools, opened=False)
            fix = "train the conversation's last turn, or leave the row out with data.max_bad_share"
            self._refuse_tokens(example, self.spans.ids_of(served), self.spans.ids_of(text), fix)
        self._refuse_tokens(example, self.spans.ids_of(served), self.spans.ids_of(text), _OPENING)

    def _refuse_tokens(self, example: Example, served: list[int], trained: list[int], fix: str) -> NoReturn:
        at = common(served, trained)
        shown = slice(max(0, at - 2), at + _SHOWN_TOKENS)
        what = (
            f"is not trained as it will be served: serving reads {self._words(served[shown])}, "
            f"training {self._words(trained[shown])}"
        )
        raise DataError(RowProblem(example.where, what, fix))

    def _words(self, ids: list[int]) -> str:
        return " ".join(repr(self.tokenizer.decode([i])) for i in ids) or "nothing"


def _templates_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The chat template of conversations, and of those with tools, as transformers picks them."""
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"default": template}
    plain = named.get("default")
    if plain is None:
        what = "the data are conversations, and the model's tokenizer has no chat template"
        fix = "use the instruct version of the model, or data of kind text or pair as text"
        raise ConfigError(Problem("model.name_or_path", what, fix))
    return str(plain), str(named.get("tool_use", plain))


def _marking_template(tokenizer: PreTrainedTokenizerBase, own: str) -> tuple[str, str]:
    """By what assistant turns are told apart, and the template that marks them."""
    if has_generation_markers(own):
        return OWN, own
    try:
        variant = get_training_chat_template(tokenizer)
    except ValueError:  # none that TRL knows
        variant = None
    return (VARIANT, variant) if variant else (PROMPTS, own)
