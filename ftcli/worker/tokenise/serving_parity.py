"""Serving parity: an answer trains on exactly the tokens that serving produces, or its row is refused.

A served model receives the turns so far, rendered with the tokenizer's own chat template plus the generation prompt,
and continues from there until it generates an end token. So an assistant turn may be trained only if

- the rendered conversation begins with exactly that prompt, in text and in tokens, and
- what follows is what the template renders for the conversation up to this turn.

Some templates render earlier turns differently once more turns follow (they strip the reasoning, for example). Then no
one text shows all turns as they are served, and the conversation is unrolled: each trained turn is an example of its
own, after the prompt that is served at that point (ftcli/models/templates/served_texts.py). What the model must write
there begins where the prompt ends, which may have opened the reasoning, and closes with an end token, also where the
template writes none.

If the template marks the assistant's text ({% generation %}), or TRL has a training version of it that does, no token
outside the marks is trained either.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NoReturn

from jinja2 import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from ftcli.core.errors import ConfigError, DataError, Problem, RowProblem
from ftcli.data.formats.columns import VARIABLES
from ftcli.data.quality_checks import QualityIssue
from ftcli.data.scan import Example
from ftcli.models.templates.answer_forms import has_reasoning
from ftcli.models.templates.answer_parts import Structure, structure_of
from ftcli.models.templates.chat_template import BASE_FIX, with_defaults, without_defaults
from ftcli.models.templates.served_texts import ServedAnswer, ServedText, ServedTexts, TextsByVariables, Unservable
from ftcli.models.templates.template_rendering import PROBE, closing_token
from ftcli.worker.tokenise.answer_spans import Answer, Span, Spans, Unserved, common
from ftcli.worker.tokenise.left_out import left_out, refuse_left_out
from ftcli.worker.tokenise.special_tokens import SpecialTokens, Turns

OWN, VARIANT, PROMPTS = "the tokenizer's own marks", "marks of TRL's training version", "the serving prompts"
"""How the assistant's text is located in a rendered conversation."""
_SHOWN_TOKENS = 6
_CHANGE = "change its turns, or remove the row"
_SPACE = "remove white space at the start of the answer, or drop the row with data.max_bad_share"
_PROMPT_SPACE = (
    "end the prompt, or what the chat template writes before an answer, without white space: in training it is a part "
    "of the answer's first token"
)
_OPENING = "start the answer as the template does (with reasoning, for example), or drop it with data.max_bad_share"
_NO_REASONING = "remove the reasoning from the rows, or use a template whose prompt leaves it to the model"


@dataclass(frozen=True)
class Rendered:
    """A training example as text, with its trained answers."""

    served: ServedText
    answers: list[Answer]
    left_out: tuple[QualityIssue, ...] = ()
    """What the template leaves out of the turns that are not trained, and of the tools."""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.served.text


class Serving:
    """The chat template of a tokenizer, as it is used in serving."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens) -> None:
        self.tokenizer = tokenizer
        self.template, self._tool_template = _templates_of(tokenizer)
        self.marks, self._marking = _marking_template(tokenizer, self.template)
        self._special = dict(tokenizer.special_tokens_map)
        stops, own_end = special_tokens.stops, tokenizer.eos_token or ""
        self._texts = TextsByVariables(
            lambda variables: ServedTexts(partial(self._given, variables), stops, special_tokens.pattern, own_end)
        )
        self.spans = Spans(tokenizer, stops)
        # SentencePiece writes a space before the first word of a text: an answer on its own would begin with it.
        self._divisible = not tokenizer.convert_ids_to_tokens(self.spans.ids_of("x"))[0].startswith("▁")

    # --- text --------------------------------------------------------------------------------------------------------

    @cached_property
    def structure(self) -> Structure:
        """How the template divides answers into reasoning and final part."""
        return structure_of(self._texts.of())

    def prompt(self, example: Example, turns: Turns, tools: Any) -> str:
        """The turns followed by the generation prompt, as they are served.

        Raises:
            DataError: the template refuses them.
        """
        return self._texts_of(example).prompt(example, turns, tools)

    def render(
        self, example: Example, turns: Turns, trained: list[int], tools: Any, marked: bool, unroll: bool = False
    ) -> list[Rendered]:
        """The training examples of a conversation: all of it, or one for each trained turn where no one text shows
        them all as they are served.

        Args:
            trained: indices of the assistant turns to train.
            marked: whether the template's marks narrow the loss mask.
            unroll: whether each trained turn is an example of its own in any case.

        Raises:
            DataError: the template refuses it, or one of its turns cannot be trained as it is served.
        """
        texts = self._texts_of(example)
        turns = texts.forms.adapted(turns)
        try:
            served = texts.examples(example, turns, trained, tools, unroll)
        except Unservable as fault:
            self._refuse_turn(example, turns, tools, fault)
        found = []
        for each in served:
            marks = self._marks(example, turns[: each.turns], tools, each) if marked else None
            for answer in each.answers:
                said = each.text[answer.said : answer.end]
                refuse_left_out(example.where, turns[answer.turn], answer.turn + 1, said)
            found.append(Rendered(each, [_narrowed(answer, marks) for answer in each.answers]))
        lost = left_out(turns, tools, found[-1].text, trained)
        return [*found[:-1], replace(found[-1], left_out=tuple(lost))]

    def render_answer(self, example: Example, turns: Turns, start: int, tools: Any) -> Rendered:
        """A conversation whose turns from `start` on are one answer, tool results and all.

        Raises:
            DataError: as `render`.
        """
        texts = self._texts_of(example)
        turns = texts.forms.adapted(turns)
        try:
            served = texts.answer(example, turns, start, tools)
        except Unservable as fault:
            self._refuse_turn(example, turns, tools, fault)
        [answer] = served.answers
        if answer.start == answer.end - len(answer.closing):
            what = "the model's chat template renders nothing for the answer"
            raise DataError(RowProblem(example.where, what, _CHANGE))
        for index in range(start, len(turns)):
            refuse_left_out(example.where, turns[index], index + 1, served.text[answer.said : answer.end])
        lost = left_out(turns, tools, served.text, range(start, len(turns)))
        return Rendered(served, [_narrowed(answer, None)], tuple(lost))

    def _marks(self, example: Example, turns: Turns, tools: Any, served: ServedText) -> list[Span] | None:
        """The spans of a text that the template marks (None: no marks, all may be trained)."""
        own, marks, marking = self.template, self.marks, self._marking
        if tools and self._tool_template != own:
            marking = self._tool_template
            marks = OWN if has_generation_markers(marking) else PROMPTS
        if marks == PROMPTS or served.written is None:
            return None
        variables = example.value.get(VARIABLES) or {}
        theirs, spans = self._rendered(example.where, variables, turns, tools, marking, opened=False, marks=True)
        # TRL's training version may render other text than the tokenizer's template; its marks are useless then.
        return spans if theirs == served.written else None

    def _texts_of(self, example: Example) -> ServedTexts:
        return self._texts.of(example.value.get(VARIABLES))

    def _given(
        self, variables: Mapping[str, Any], example: Example | None, turns: Turns, tools: Any, opened: bool
    ) -> str:
        template = self._tool_template if tools else self.template
        where = example.where if example else ""
        return self._rendered(where, variables, turns, tools, template, opened=opened, marks=False)[0]

    def _rendered(
        self,
        where: str,
        variables: Mapping[str, Any],
        turns: Turns,
        tools: Any,
        template: str,
        *,
        opened: bool,
        marks: bool,
    ) -> tuple[str, list[Span]]:
        try:
            texts, spans = render_jinja_template(
                conversations=[turns],
                tools=tools or None,
                chat_template=template,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=opened,
                **{**self._special, **variables},
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"the model's chat template refuses the row: {error}"
            raise DataError(RowProblem(where, what, _CHANGE)) from None
        return texts[0], spans[0] if spans else []

    # --- tokens ------------------------------------------------------------------------------------------------------

    def pieces(self, rendered: Rendered) -> list[str]:
        """The texts of a training example to tokenise, whose tokens follow each other."""
        return rendered.served.pieces if self._divisible else [rendered.text]

    def token_spans(
        self, example: Example, rendered: Rendered, parts: Sequence[list[int]], answer: Answer
    ) -> list[Span]:
        """The trained token spans [start, end) of an answer.

        Args:
            parts: the tokens of each of the text's pieces.

        Raises:
            DataError: the tokens before the answer differ from those that serving produces.
        """
        try:
            if len(parts) == 1:
                return self.spans.of(rendered.text, parts[0], answer)
            at, before = rendered.served.apart, len(parts[0])
            trained = tuple((start - at, end - at) for start, end in answer.trained)
            own = answer._replace(start=answer.start - at, end=answer.end - at, trained=trained)
            return [(a + before, b + before) for a, b in self.spans.of(rendered.text[at:], parts[1], own)]
        except Unserved as difference:
            prompt, said = rendered.text[: answer.start], rendered.text[answer.start :]
            fix = _PROMPT_SPACE if prompt[-1:].isspace() and not said[:1].isspace() else _SPACE
            self._refuse_tokens(example, difference.served, difference.trained, fix)

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _refuse_turn(self, example: Example, turns: Turns, tools: Any, fault: Unservable) -> NoReturn:
        """Refuse a turn that the template writes differently than the prompt that is served before it goes on."""
        closed = self._texts_of(example).forms.closed(fault.prompt, tools)
        if closed and has_reasoning(turns[fault.turn]):
            what = (
                f"the reasoning of turn {fault.turn + 1} cannot be trained: the template's generation prompt "
                f"already ends it, with {closed!r}"
            )
            raise DataError(RowProblem(example.where, what, _NO_REASONING))
        self._refuse_tokens(example, self.spans.ids_of(fault.prompt), self.spans.ids_of(fault.text), _OPENING)

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
        fix = f"{BASE_FIX}, or pairs of plain text"
        raise ConfigError(Problem("model.name_or_path", what, fix))
    return str(plain), str(named.get("tool_use", plain))


def _marking_template(tokenizer: PreTrainedTokenizerBase, own: str) -> tuple[str, str]:
    """How assistant turns are located, and the template that marks them."""
    if has_generation_markers(own):
        return OWN, own
    # TRL compares the text with the templates that it knows, which set no variables.
    published = copy.copy(tokenizer)
    published.chat_template, values = without_defaults(own)
    try:
        variant = get_training_chat_template(published)
    except ValueError:  # none that TRL knows
        variant = None
    return (VARIANT, with_defaults(variant, values)) if variant else (PROMPTS, own)


def _narrowed(answer: ServedAnswer, marks: list[Span] | None) -> Answer:
    """An answer of which what the template marks is trained, and the end token that the template does not write."""
    turn, start, end, ended = answer[:4]
    if marks is None:
        return Answer(turn, start, end, ended, ((start, end),))
    inner = end - len(answer.closing)
    allowed = [(max(start, a), min(inner, b)) for a, b in marks if a < inner and start < b]
    if answer.closing and allowed and allowed[-1][1] == inner:
        allowed[-1] = (allowed[-1][0], end)
    return Answer(turn, start, end, ended and bool(allowed) and allowed[-1][1] == end, tuple(allowed))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template closes an answer with; None where it has none, or there is no template."""
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if not template:
        return None
    special = dict(tokenizer.special_tokens_map)
    try:
        texts, _ = render_jinja_template(conversations=[list(PROBE)], chat_template=template, **special)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    tokens = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    closing = closing_token(texts[0], tokens)
    return tokens[closing] if closing else None
