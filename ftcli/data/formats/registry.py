"""The supported formats of rows, recognised by their columns and converted to one of six dataset types.

Trainers know dataset types (TRL's term), never formats; `kind` in the code is a dataset type. A conversation is a list
of canonical turns (`conversations.turns`); text stays a string only where the set names no speaker.

    text        {"text": str}
    pair        {"prompt", "completion"}            both str or both conversations
    messages    {"messages"}
    preference  {"prompt", "chosen", "rejected"}    all str or all conversations
    label       {"prompt", "completion", "label": bool}
    prompt      {"prompt", …}                       further columns unchanged

Conversations may have "tools". To add a format, write one row → row function (converters.py) and its entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.describe import describe_type
from ftcli.data.files.reader import Row
from ftcli.data.formats import converters, ranked
from ftcli.data.formats.columns import (
    CONVERSATION,
    FROM_TURNS,
    LABEL,
    LABELS,
    LABELS_BY_VALUE,
    ONE_ANSWER,
    ROLE_TURNS,
    TEXT,
    TEXT_OR_TURNS,
    TURNS,
    Converter,
    Example,
    Format,
    LabelNeed,
    Need,
    Shape,
    apply_mapping,
    nearest_formats,
)
from ftcli.data.formats.context import with_context
from ftcli.data.formats.conversations import ROLES, FieldFault, Roles, spoken, with_meanings
from ftcli.data.formats.row_fields import (
    ANSWERS,
    CHOSEN,
    CONVERSATIONS,
    INPUT,
    INSTRUCTIONS,
    QUESTIONS,
    REJECTED,
)

__all__ = [
    "DATASET_TYPES",
    "FORMATS",
    "Format",
    "apply_mapping",
    "candidates",
    "columns_error",
    "convert",
    "convert_type",
    "converted_type",
    "dataset_type_problem",
    "recognise",
]

DATASET_TYPES: Mapping[str, str] = {
    "text": "plain text",
    "pair": "prompt-completion pairs",
    "messages": "messages",
    "preference": "preference pairs",
    "label": "labelled completions",
    "prompt": "prompts",
}
"""Every dataset type, and what messages call its rows."""

# --- the table: specific before general -----------------------------------------------------------------------------

_TWO_ANSWERS = (Need(CHOSEN, ONE_ANSWER), Need(REJECTED, ONE_ANSWER))
_TWO_TEXTS = (Need(CHOSEN, TEXT), Need(REJECTED, TEXT))
_TWO_CONVERSATIONS = (Need(CHOSEN, CONVERSATION), Need(REJECTED, CONVERSATION))
_REJECTED = Need(REJECTED, TEXT_OR_TURNS)
_JUDGED = LabelNeed((*LABELS, *LABELS_BY_VALUE), LABEL)
_PAIR = (Need(("prompt",), TEXT_OR_TURNS), Need(("completion",), TEXT_OR_TURNS))
_ALPACA = (Need(("instruction",), TEXT), Need(converters.OUTPUTS, TEXT))
_ASKED = (Need(QUESTIONS, TEXT), Need(ANSWERS, TEXT))
_CONVERSATION = Need(CONVERSATIONS, TURNS)
_OPENAI_INPUT = Shape("an object with messages", lambda value: isinstance(value, dict) and "messages" in value, True)
_OPENAI = tuple(Need((name,), ONE_ANSWER) for name in converters.OPENAI_SIDES)


def _format(name: str, kind: str, function: Converter, *needs: Need, optional: tuple[str, ...] = ()) -> Format:
    return Format(name, kind, str(function.__doc__), needs, optional, function)


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        _format(
            "sharegpt_preference", "preference", converters.from_conversation_preference, _CONVERSATION, *_TWO_ANSWERS
        ),
        _format(
            "alpaca_preference",
            "preference",
            converters.from_instruction_preference,
            Need(INSTRUCTIONS, TEXT),
            *_TWO_ANSWERS,
            optional=(INPUT,),
        ),
        _format(
            "preference_messages", "preference", converters.from_preference, *_TWO_CONVERSATIONS, optional=("prompt",)
        ),
        _format("preference_text", "preference", converters.from_preference, *_TWO_TEXTS, optional=("prompt",)),
        _format(
            "openai_preference",
            "preference",
            converters.from_openai_preference,
            Need(("input",), _OPENAI_INPUT),
            *_OPENAI,
        ),
        _format("messages_rejected", "preference", converters.from_conversation_and_rejected, _CONVERSATION, _REJECTED),
        _format(
            "pair_rejected",
            "preference",
            converters.from_pair_and_rejected,
            Need(converters.PROMPTS, TEXT_OR_TURNS),
            Need(converters.COMPLETIONS, TEXT_OR_TURNS),
            _REJECTED,
            optional=(INPUT,),
        ),
        _format("labelled_messages", "label", converters.from_labelled_conversation, _CONVERSATION, _JUDGED),
        _format("labelled", "label", converters.from_labelled_pair, *_PAIR, _JUDGED),
        _format("labelled_alpaca", "label", converters.from_labelled_alpaca, *_ALPACA, _JUDGED, optional=(INPUT,)),
        _format(
            "labelled_query_response",
            "label",
            converters.from_labelled_question,
            *_ASKED,
            _JUDGED,
            optional=(INPUT,),
        ),
        _format(
            "ranked_messages",
            "preference",
            ranked.from_ranked_conversation,
            ranked.QUESTION_TURNS,
            ranked.ANSWER_LIST,
            optional=ranked.RANKINGS,
        ),
        _format("messages", "messages", converters.from_conversation, Need(CONVERSATIONS, ROLE_TURNS)),
        _format("sharegpt", "messages", converters.from_conversation, Need(CONVERSATIONS, FROM_TURNS)),
        _format("alpaca", "pair", converters.from_alpaca, *_ALPACA, optional=(INPUT,)),
        _format("prompt_completion", "pair", converters.from_pair, *_PAIR),
        _format("query_response", "pair", converters.from_question, *_ASKED, optional=(INPUT,)),
        _format("text", "text", converters.from_text, Need(("text",), TEXT)),
        _format(
            "ranked_alpaca",
            "preference",
            ranked.from_ranked_alpaca,
            ranked.INSTRUCTION,
            ranked.ANSWER_LIST_OR_OUTPUT,
            optional=(INPUT, *ranked.RANKINGS),
        ),
        _format(
            "ranked",
            "preference",
            ranked.from_ranked,
            Need(("prompt",), TEXT_OR_TURNS),
            ranked.ANSWER_LIST,
            optional=ranked.RANKINGS,
        ),
        _format("prompt", "prompt", converters.from_prompt, Need(("prompt",), TEXT_OR_TURNS)),
    )
}
"""Every format by name, in the order in which they are tried."""


# --- recognition and conversion -------------------------------------------------------------------------------------


def candidates(row: Mapping[str, Any]) -> list[Format]:
    """All formats whose columns the row has, the most specific first."""
    return [fmt for fmt in FORMATS.values() if fmt.recognise(row)]


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The most specific format whose columns the row has; None if there is none."""
    return next((fmt for fmt in FORMATS.values() if fmt.recognise(row)), None)


def columns_error(row: Mapping[str, Any], where: str) -> Problem:
    """The problem that no format matches, with the row's columns and what the five nearest formats lack."""
    columns = ", ".join(f"{name} ({describe_type(value)})" for name, value in row.items()) or "none"
    nearest = [
        f"\n    {fmt.name}: {'; '.join(fmt.faults(row))}" for fmt in nearest_formats(row, list(FORMATS.values()))[:5]
    ]
    what = f"the columns match no supported format\n  columns: {columns}\n  nearest formats:{''.join(nearest)}"
    return Problem(where, what, "rename the columns to those of a format, or map them with data.columns")


def convert(
    fmt: Format, row: Row, *, wanted: Collection[str] = tuple(DATASET_TYPES), roles: Roles | None = None
) -> Example:
    """The row as an example of the format's dataset type, or of the type it is converted to for `wanted`.

    Args:
        wanted: dataset types that the trainer takes; see `converted_type`.
        roles: meanings of further role names (`data.roles`), in addition to ROLES: {"customer": "user"}.

    Raises:
        DataError: names the row's place, the field, the fault and the remedy.
    """
    try:
        meanings = with_meanings(roles) if roles else ROLES
        example = fmt.to_canonical(row.value, meanings)
        return convert_type(with_context(fmt.kind, row.value, example, meanings), fmt.kind, wanted)
    except FieldFault as fault:
        raise DataError(RowProblem(row.where, fault.what, fault.fix, field=fault.field)) from None


def converted_type(kind: str, wanted: Collection[str]) -> str | None:
    """The wanted dataset type that `kind` is converted to; None if no conversion is lossless."""
    if kind in wanted:
        return kind
    return "messages" if kind == "pair" and "messages" in wanted else None


def convert_type(example: Example, kind: str, wanted: Collection[str]) -> Example:
    """An example of `kind` as one of the wanted dataset types; a pair becomes a user and an assistant turn.

    Raises:
        FieldFault: no conversion is lossless. (Labels are never dropped: half of the answers may be bad.)
    """
    after = converted_type(kind, wanted)
    if after is None:
        raise FieldFault(f"a row of type {kind} cannot be converted to {' or '.join(wanted)} without loss")
    if after == kind:
        return example
    prompt = spoken(example["prompt"], "prompt", "user")
    if any(turn["role"] == "assistant" for turn in prompt):
        # A pair does not train them; messages would.
        raise FieldFault(
            "the prompt has earlier answers that would be trained too", "write the row as messages", "prompt"
        )
    completion = spoken(example["completion"], "completion", "assistant")
    declared = {"tools": example["tools"]} if "tools" in example else {}
    return {"messages": [*prompt, *completion], **declared}


def dataset_type_problem(
    fmt: Format, row: Mapping[str, Any], where: str, wanted: Collection[str], by: str
) -> Problem | None:
    """The problem that `by` (a method's name) cannot use this dataset type; None if it can, directly or converted."""
    if converted_type(fmt.kind, wanted):
        return None
    others = [other.name for other in candidates(row) if converted_type(other.kind, wanted)]
    fix = f"use such data, or a method that takes {DATASET_TYPES[fmt.kind]}"
    if others:
        fix += f"; or set data.format, since the columns also match {' or '.join(others)}"
    needed = " or ".join(DATASET_TYPES[kind] for kind in wanted)
    what = f"this data set holds {DATASET_TYPES[fmt.kind]} (format {fmt.name}); {by} needs {needed}"
    return Problem(where, what, fix)
