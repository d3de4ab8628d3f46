"""The supported formats of rows, recognised by their columns and converted to one of six dataset types.

Trainers know dataset types (TRL's term), never formats; `kind` in the code is a dataset type. A conversation is a list
of canonical turns (`conversations.turns`); text stays a string only where the set names no speaker.

    text        {"text": str}
    pair        {"prompt", "completion"}            both str or both conversations
    messages    {"messages"}
    preference  {"prompt", "chosen", "rejected"}    all str or all conversations
    label       {"prompt", "completion", "label": bool}
    prompt      {"prompt", …}                       further columns unchanged

Conversations may have "tools". To add a format, write one row → row function and its entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.describe import describe_type, describe_value
from ftcli.data.files.reader import Row
from ftcli.data.formats import ranked
from ftcli.data.formats.columns import (
    CONVERSATION,
    FROM_TURNS,
    LABEL,
    ONE_ANSWER,
    ROLE_TURNS,
    TEXT,
    TEXT_OR_TURNS,
    TURNS,
    Converter,
    Example,
    Format,
    Need,
    apply_mapping,
    nearest_formats,
)
from ftcli.data.formats.common_prefix import check_prompt, split_conversations, split_texts
from ftcli.data.formats.conversations import (
    ROLES,
    FieldFault,
    Roles,
    answer,
    check_answer,
    check_trained,
    only_read,
    spoken,
    text,
    with_meanings,
)
from ftcli.data.formats.row_fields import (
    ANSWERS,
    CONVERSATIONS,
    INSTRUCTIONS,
    LABELS,
    QUESTIONS,
    SYSTEM,
    Fields,
    conversation_of,
    label_of,
    prompt_of,
    question_of,
    value_of,
    with_tools,
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

# --- one function per format: row → example -------------------------------------------------------------------------


def from_text(row: Fields, roles: Roles) -> Example:
    """{"text"}: all of it is trained."""
    return {"text": text(value_of(row, ("text",))[1], "text")}


def from_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} as text or turns; text beside turns becomes a turn."""
    prompt, completion = value_of(row, ("prompt",))[1], value_of(row, ("completion",))[1]
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": text(prompt, "prompt"), "completion": text(completion, "completion")}
    asked = prompt_of(prompt, "prompt", roles)
    return with_tools(row, {"prompt": asked, "completion": answer(completion, "completion", roles)})


def from_question(row: Fields, roles: Roles) -> Example:
    """A question and its answer under their usual names: a user turn and an assistant turn."""
    name, given = value_of(row, ANSWERS)
    return {"prompt": question_of(row, value_of(row, QUESTIONS)[0]), "completion": answer(text(given, name), name)}


def from_alpaca(row: Fields, roles: Roles) -> Example:
    """Instruction, with the input on the next line if there is one, and output; history and system come before."""
    given = text(value_of(row, ("output",))[1], "output")
    return {"prompt": question_of(row, "instruction", "input"), "completion": answer(given, "output")}


def from_conversation(row: Fields, roles: Roles) -> Example:
    """Turns in OpenAI's or ShareGPT's format; a system column comes before them."""
    name, _ = value_of(row, CONVERSATIONS)
    return with_tools(row, {"messages": check_trained(conversation_of(row, name, roles), name)})


def from_preference(row: Fields, roles: Roles) -> Example:
    """Chosen and rejected answers to a prompt, or whole texts or conversations whose common beginning is the prompt."""
    chosen, rejected, prompt = value_of(row, ("chosen",))[1], value_of(row, ("rejected",))[1], row.get("prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        what = f"chosen is {describe_value(chosen)} but rejected is {describe_value(rejected)}"
        raise FieldFault(what, "write both the same way", "rejected")
    if isinstance(chosen, str) and (prompt is None or isinstance(prompt, str)):
        sides = {"chosen": text(chosen, "chosen"), "rejected": text(rejected, "rejected")}
        return split_texts(**sides) if prompt is None else {"prompt": text(prompt, "prompt"), **sides}
    ours, theirs = spoken(chosen, "chosen", "assistant", roles), spoken(rejected, "rejected", "assistant", roles)
    asked = [] if prompt is None else prompt_of(prompt, "prompt", roles)
    shared = 0
    if asked and ours[0]["role"] == "assistant":
        example = {"prompt": asked, "chosen": ours, "rejected": theirs}
    else:
        example = split_conversations(ours, theirs)
        check_prompt(asked, example["prompt"])
        shared = len(example["prompt"])
    for side, given in (("chosen", chosen), ("rejected", rejected)):
        check_answer(example[side], side, shared if isinstance(given, list) else None)
    return with_tools(row, example)


def from_conversation_preference(row: Fields, roles: Roles) -> Example:
    """A conversation and two ways to continue it."""
    name, _ = value_of(row, CONVERSATIONS)
    prompt = only_read(conversation_of(row, name, roles))
    if prompt[-1]["role"] == "assistant":
        what = f"{name} ends with an assistant turn, before chosen and rejected"
        raise FieldFault(what, "end it with the prompt", f"{name}[{len(row[name]) - 1}]")
    sides = {side: answer(value_of(row, (side,))[1], side, roles) for side in ("chosen", "rejected")}
    return with_tools(row, {"prompt": prompt, **sides})


def from_instruction_preference(row: Fields, roles: Roles) -> Example:
    """An instruction, with an input if there is one, and two answers."""
    prompt = question_of(row, value_of(row, INSTRUCTIONS)[0], "input")
    sides = {side: answer(value_of(row, (side,))[1], side, roles) for side in ("chosen", "rejected")}
    return {"prompt": prompt, **sides}


def from_labelled_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} with a label: whether the answer is good."""
    return {**from_pair(row, roles), "label": label_of(row)}


def from_labelled_question(row: Fields, roles: Roles) -> Example:
    """A question, its answer and a label."""
    return {**from_question(row, roles), "label": label_of(row)}


def from_labelled_alpaca(row: Fields, roles: Roles) -> Example:
    """Instruction, output and a label."""
    return {**from_alpaca(row, roles), "label": label_of(row)}


def from_labelled_conversation(row: Fields, roles: Roles) -> Example:
    """A conversation with a label for its last turn, which must be the assistant's."""
    name, _ = value_of(row, CONVERSATIONS)
    messages = conversation_of(row, name, roles)
    last = len(row[name]) - 1
    if messages[-1]["role"] != "assistant":
        what = f"{name} ends with a {messages[-1]['role']} turn"
        raise FieldFault(what, "end it with the labelled answer", f"{name}[{last}]")
    if len(messages) == 1:
        raise FieldFault(f"{name} has no turn before the answer", "start with the prompt", name)
    judged = check_answer(messages[-1:], name, last)
    return with_tools(row, {"prompt": only_read(messages[:-1]), "completion": judged, "label": label_of(row)})


def from_prompt(row: Fields, roles: Roles) -> Example:
    """A prompt to answer; other columns (such as a solution) are kept for scoring the answer."""
    _, prompt = value_of(row, ("prompt",))
    asked = text(prompt, "prompt") if isinstance(prompt, str) else prompt_of(prompt, "prompt", roles)
    return with_tools(row, {**row, "prompt": asked})


# --- the table: specific before general -----------------------------------------------------------------------------

_TWO_ANSWERS = (Need(("chosen",), ONE_ANSWER), Need(("rejected",), ONE_ANSWER))
_TWO_TEXTS = (Need(("chosen",), TEXT), Need(("rejected",), TEXT))
_TWO_CONVERSATIONS = (Need(("chosen",), CONVERSATION), Need(("rejected",), CONVERSATION))
_JUDGED = Need(LABELS, LABEL)
_PAIR = (Need(("prompt",), TEXT_OR_TURNS), Need(("completion",), TEXT_OR_TURNS))
_ALPACA = (Need(("instruction",), TEXT), Need(("output",), TEXT))
_ASKED = (Need(QUESTIONS, TEXT), Need(ANSWERS, TEXT))
_BEFORE = (*SYSTEM, "history")
_AROUND = (*SYSTEM, "tools")

_CONVERSATION = Need(CONVERSATIONS, TURNS)


def _format(name: str, kind: str, function: Converter, *needs: Need, optional: tuple[str, ...] = ()) -> Format:
    return Format(name, kind, str(function.__doc__), needs, optional, function)


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        _format(
            "sharegpt_preference",
            "preference",
            from_conversation_preference,
            _CONVERSATION,
            *_TWO_ANSWERS,
            optional=_AROUND,
        ),
        _format(
            "alpaca_preference",
            "preference",
            from_instruction_preference,
            Need(INSTRUCTIONS, TEXT),
            *_TWO_ANSWERS,
            optional=("input", *_BEFORE),
        ),
        _format(
            "preference_messages", "preference", from_preference, *_TWO_CONVERSATIONS, optional=("prompt", "tools")
        ),
        _format("preference_text", "preference", from_preference, *_TWO_TEXTS, optional=("prompt", "tools")),
        _format("labelled_messages", "label", from_labelled_conversation, _CONVERSATION, _JUDGED, optional=_AROUND),
        _format("labelled", "label", from_labelled_pair, *_PAIR, _JUDGED, optional=("tools",)),
        _format("labelled_alpaca", "label", from_labelled_alpaca, *_ALPACA, _JUDGED, optional=("input", *_BEFORE)),
        _format("labelled_query_response", "label", from_labelled_question, *_ASKED, _JUDGED, optional=_BEFORE),
        _format(
            "ranked_messages",
            "preference",
            ranked.from_ranked_conversation,
            ranked.QUESTION_TURNS,
            ranked.ANSWER_LIST,
            optional=(*_AROUND, *ranked.RANKINGS),
        ),
        _format("messages", "messages", from_conversation, Need(CONVERSATIONS, ROLE_TURNS), optional=_AROUND),
        _format("sharegpt", "messages", from_conversation, Need(CONVERSATIONS, FROM_TURNS), optional=_AROUND),
        _format("alpaca", "pair", from_alpaca, *_ALPACA, optional=("input", *_BEFORE)),
        _format("prompt_completion", "pair", from_pair, *_PAIR, optional=("tools",)),
        _format("query_response", "pair", from_question, *_ASKED, optional=_BEFORE),
        _format("text", "text", from_text, Need(("text",), TEXT)),
        _format(
            "ranked_alpaca",
            "preference",
            ranked.from_ranked_alpaca,
            ranked.INSTRUCTION,
            ranked.ANSWER_LIST_OR_OUTPUT,
            optional=("input", *_BEFORE, *ranked.RANKINGS),
        ),
        _format(
            "ranked",
            "preference",
            ranked.from_ranked,
            Need(("prompt",), TEXT_OR_TURNS),
            ranked.ANSWER_LIST,
            optional=("tools", *ranked.RANKINGS),
        ),
        _format("prompt", "prompt", from_prompt, Need(("prompt",), TEXT_OR_TURNS), optional=("tools",)),
    )
}
"""Every format by name, in the order in which they are tried."""


# --- recognition and conversion -------------------------------------------------------------------------------------


def candidates(row: Mapping[str, Any]) -> list[Format]:
    """All formats whose columns the row has, the most specific first."""
    return [fmt for fmt in FORMATS.values() if fmt.recognise(row)]


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The most specific format whose columns the row has; None if there is none."""
    return next(iter(candidates(row)), None)


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
        return convert_type(fmt.to_canonical(row.value, with_meanings(roles) if roles else ROLES), fmt.kind, wanted)
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
    return with_tools(example, {"messages": [*prompt, *completion]})


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
