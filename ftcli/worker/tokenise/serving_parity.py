"""Serving parity: an answer trains on exactly the tokens that serving produces, or its row is refused.

A served model receives the turns so far, rendered with the tokenizer's own chat template plus the generation prompt,
and continues from there until it generates an end token. So an assistant turn may be trained only if

- the rendered conversation begins with exactly that prompt, in text and in tokens, and
- what follows is what the template renders for the conversation up to this turn.

Some templates render earlier turns differently once more turns follow (they strip the reasoning, for example). Then
only the last turn looks as it does in serving, and only it is trained; the ledger counts these rows.

If the template marks the assistant's text ({% generation %}), or TRL has a training version of it that does, no token
outside the marks is trained either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.data.quality_checks import QualityIssue
from ftcli.data.scan import Example
from ftcli.worker.tokenise.answer_spans import Answer, Span, Spans, Unserved, common
from ftcli.worker.tokenise.left_out import left_out, refuse_left_out
from ftcli.worker.tokenise.special_tokens import SpecialTokens, Turns

OWN, VARIANT, PROMPTS = "the tokenizer's own marks", "marks of TRL's training version", "the serving prompts"
"""How the assistant's text is located in a rendered conversation."""
_SHOWN_TOKENS = 6
_CHANGE = "change its turns, or remove the row"
_SPACE = "remove white space at the start of the answer, or drop the row with data.max_bad_share"
_OPENING = "start the answer as the template does (with reasoning, for example), or drop it with data.max_bad_share"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, with its trained answers."""

    text: str
    answers: list[Answer]
    last_turn_only: bool = False
    left_out: tuple[QualityIssue, ...] = ()
    """What the template leaves out of the turns that are not trained, and of the tools."""


class Serving:
    """The chat template of a tokenizer, as it is used in serving."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens) -> None:
        self.tokenizer = tokenizer
        self.template, self._tool_template = _templates_of(tokenizer)
        self.marks, self._marking = _marking_template(tokenizer, self.template)
        self._special = dict(tokenizer.special_tokens_map)
        self._stops, self._specials = special_tokens.stops, special_tokens.pattern
        self.spans = Spans(tokenizer, self._stops)

    # --- text --------------------------------------------------------------------------------------------------------

    def prompt(self, example: Example, turns: Turns, tools: Any) -> str:
        """The turns followed by the generation prompt, as they are served.

        Raises:
            DataError: the template refuses them.
        """
        return self._text(example, turns, tools, opened=True)

    def render(self, example: Example, turns: Turns, trained: list[int], tools: Any, marked: bool) -> Rendered:
        """A conversation with the answers of its trained turns.

        Args:
            trained: indices of the assistant turns to train.
            marked: whether the template's marks narrow the loss mask.

        Raises:
            DataError: the template refuses it, or not even its last turn is trained as it is served.
        """
        text, marks = self._whole(example, turns, tools, marked)
        found = [self._answer(example, turns, index, tools, text, marks) for index in trained]
        # A template that rewrites one earlier turn is not trusted with the others: only the last turn is trained.
        rewritten = None in found
        if rewritten and found[-1] is None:
            self._refuse_turn(example, turns, trained[-1], tools, text)
        answers = [answer for answer in (found[-1:] if rewritten else found) if answer is not None]
        for answer in answers:
            refuse_left_out(example.where, turns[answer.turn], answer.turn + 1, text[answer.start : answer.end])
        lost = left_out(turns, tools, text, [answer.turn for answer in answers])
        return Rendered(text, answers, rewritten, tuple(lost))

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
        if len(turns) > start + 1:  # earlier turns of the answer may repeat its text, and have end tokens of their own
            last = max(last, common(text, self._text(example, turns[:-1], tools, opened=True)))
        length, ended = self._length(example, text[last:], turns[-1])
        span = (len(prompt), last + length)
        if span[0] == span[1]:
            what = "the model's chat template renders nothing for the answer"
            raise DataError(RowProblem(example.where, what, _CHANGE))
        answer = text[slice(*span)]
        for index in range(start, len(turns)):
            refuse_left_out(example.where, turns[index], index + 1, answer)
        lost = left_out(turns, tools, text, range(start, len(turns)))
        return Rendered(text, [Answer(start, *span, ended, (span,))], left_out=tuple(lost))

    def _whole(self, example: Example, turns: Turns, tools: Any, marked: bool) -> tuple[str, list[Span] | None]:
        """The conversation as text, and the marked spans (None: no marks, all may be trained)."""
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
        # TRL's training version may render other text than the tokenizer's template; its marks are useless then.
        return text, spans if theirs == text else None

    def _answer(
        self, example: Example, turns: Turns, index: int, tools: Any, text: str, marks: list[Span] | None
    ) -> Answer | None:
        """The answer of turn `index`, or None if the whole conversation renders it differently than serving does."""
        # Serving renders the turns up to here and no further, so both texts must agree up to the end of this answer.
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
            raise DataError(RowProblem(example.where, what, "use a model whose template takes text, or remove the row"))
        ends = [place + len(stop) for stop in self._stops if (place := answer.find(stop, after)) >= 0]
        if ends:
            return min(ends), True
        # No end token of the model: a special token that closes the turn is the best sign of its end.
        special = [found.end() for found in self._specials.finditer(answer, after)]
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
        """The trained token spans [start, end) of an answer.

        Raises:
            DataError: the tokens before the answer differ from those that serving produces.
        """
        try:
            return self.spans.of(text, ids, answer)
        except Unserved as difference:
            self._refuse_tokens(example, difference.served, difference.trained, _SPACE)

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _refuse_turn(self, example: Example, turns: Turns, index: int, tools: Any, text: str) -> NoReturn:
        """Refuse a turn whose prompt, or whose answer, the whole conversation renders differently than serving does."""
        served = self._text(example, turns[:index], tools, opened=True)
        if text.startswith(served):
            served = self._text(example, turns[: index + 1], tools, opened=False)
            fix = "train the conversation's last turn, or drop the row with data.max_bad_share"
            self._refuse_tokens(example, self.spans.ids_of(served), self.spans.ids_of(text), fix)
        self._refuse_tokens(example, self.spans.ids_of(served), self.spans.ids_of(text), _OPENING)

    def _refuse_tokens(self, example: Example, served: list[int], trained: list[int], fix: str) -> NoReturn:
        at = common(served, trained)
        shown = slice(max(0, at - 2), at + _SHOWN_TOKENS)
        what = (
            f"would not be trained as it is served: serving reads {self._decoded(served[shown])}, "
            f"training {self._decoded(trained[shown])}"
        )
        raise DataError(RowProblem(example.where, what, fix))

    def _decoded(self, ids: list[int]) -> str:
        return " ".join(repr(self.tokenizer.decode([i])) for i in ids) or "nothing"


def _templates_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The chat templates for conversations without and with tools, as transformers selects them."""
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"default": template}
    plain = named.get("default")
    if plain is None:
        what = "the data are conversations, but the model's tokenizer has no chat template"
        fix = "use the instruct version of the model, or data of type text, or pairs of plain text"
        raise ConfigError(Problem("model.name_or_path", what, fix))
    return str(plain), str(named.get("tool_use", plain))


def _marking_template(tokenizer: PreTrainedTokenizerBase, own: str) -> tuple[str, str]:
    """How assistant turns are located, and the template that marks them."""
    if has_generation_markers(own):
        return OWN, own
    try:
        variant = get_training_chat_template(tokenizer)
    except ValueError:  # none that TRL knows
        variant = None
    return (VARIANT, variant) if variant else (PROMPTS, own)
