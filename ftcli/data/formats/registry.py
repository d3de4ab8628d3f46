"""What rows mean: each format of the world's data sets, recognised by its columns, as one of six kinds of example.

A kind is a dataset type in TRL's terms; trainers know kinds, never formats. A conversation is a list of canonical
turns (`turns.turns`); text stays a string exactly where the set does not say who speaks.

    text        {"text": str}
    pair        {"prompt", "completion"}            both str or both conversations
    messages    {"messages"}
    preference  {"prompt", "chosen", "rejected"}    all str or all conversations
    label       {"prompt", "completion", "label": bool}
    prompt      {"prompt", …}                       further columns kept as they are

Conversations may bring "tools". To add a format, write one row → row function and its entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ftcli.core.errors import DataError, Problem, RowProblem
from ftcli.data.files.describe import said, sort_of
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
from ftcli.data.formats.common_prefix import check_agreed, part_conversations, part_texts
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
    "FORMATS",
    "KINDS",
    "Format",
    "apply_mapping",
    "candidates",
    "columns_error",
    "convert",
    "kind_after",
    "kind_problem",
    "recognise",
    "to_kind",
]

KINDS = ("text", "pair", "messages", "preference", "label", "prompt")

# --- one function a format: row → row -------------------------------------------------------------------------------


def from_text(row: Fields, roles: Roles) -> Example:
    """{"text"}: trained from end to end."""
    return {"text": text(value_of(row, ("text",))[1], "text")}


def from_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} as text or turns; text beside turns becomes a turn."""
    prompt, completion = value_of(row, ("prompt",))[1], value_of(row, ("completion",))[1]
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": text(prompt, "prompt"), "completion": text(completion, "completion")}
    asked = prompt_of(prompt, "prompt", roles)
    return with_tools(row, {"prompt": asked, "completion": answer(completion, "completion", roles)})


def from_question(row: Fields, roles: Roles) -> Example:
    """A question and its answer under their usual names: a user's turn and the assistant's."""
    name, given = value_of(row, ANSWERS)
    return {"prompt": question_of(row, value_of(row, QUESTIONS)[0]), "completion": answer(text(given, name), name)}


def from_alpaca(row: Fields, roles: Roles) -> Example:
    """Instruction, with the input on the next line if there is one, and output; history and system go before."""
    given = text(value_of(row, ("output",))[1], "output")
    return {"prompt": question_of(row, "instruction", "input"), "completion": answer(given, "output")}


def from_conversation(row: Fields, roles: Roles) -> Example:
    """Turns in OpenAI's or ShareGPT's words; a system column goes before them."""
    name, _ = value_of(row, CONVERSATIONS)
    return with_tools(row, {"messages": check_trained(conversation_of(row, name, roles), name)})


def from_preference(row: Fields, roles: Roles) -> Example:
    """Chosen and rejected answers to a prompt, or whole texts or conversations whose common beginning is the prompt."""
    chosen, rejected, prompt = value_of(row, ("chosen",))[1], value_of(row, ("rejected",))[1], row.get("prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        what = f"chosen is {said(chosen)} but rejected is {said(rejected)}"
        raise FieldFault(what, "write both the same way", "rejected")
    if isinstance(chosen, str) and (prompt is None or isinstance(prompt, str)):
        sides = {"chosen": text(chosen, "chosen"), "rejected": text(rejected, "rejected")}
        return part_texts(**sides) if prompt is None else {"prompt": text(prompt, "prompt"), **sides}
    ours, theirs = spoken(chosen, "chosen", "assistant", roles), spoken(rejected, "rejected", "assistant", roles)
    asked = [] if prompt is None else prompt_of(prompt, "prompt", roles)
    shared = 0
    if asked and ours[0]["role"] == "assistant":
        example = {"prompt": asked, "chosen": ours, "rejected": theirs}
    else:
        example = part_conversations(ours, theirs)
        check_agreed(asked, example["prompt"])
        shared = len(example["prompt"])
    for side, given in (("chosen", chosen), ("rejected", rejected)):
        check_answer(example[side], side, shared if isinstance(given, list) else None)
    return with_tools(row, example)


def from_conversation_preference(row: Fields, roles: Roles) -> Example:
    """A conversation and two ways to go on with it."""
    name, _ = value_of(row, CONVERSATIONS)
    prompt = only_read(conversation_of(row, name, roles))
    if prompt[-1]["role"] == "assistant":
        what = f"{name} ends with an assistant turn, before chosen and rejected"
        raise FieldFault(what, "end it with the question", f"{name}[{len(row[name]) - 1}]")
    sides = {side: answer(value_of(row, (side,))[1], side, roles) for side in ("chosen", "rejected")}
    return with_tools(row, {"prompt": prompt, **sides})


def from_instruction_preference(row: Fields, roles: Roles) -> Example:
    """An instruction, with an input if there is one, and two answers."""
    prompt = question_of(row, value_of(row, INSTRUCTIONS)[0], "input")
    sides = {side: answer(value_of(row, (side,))[1], side, roles) for side in ("chosen", "rejected")}
    return {"prompt": prompt, **sides}


def from_labelled_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} with a label: was it a good answer?"""
    return {**from_pair(row, roles), "label": label_of(row)}


def from_labelled_question(row: Fields, roles: Roles) -> Example:
    """A question, its answer and a label."""
    return {**from_question(row, roles), "label": label_of(row)}


def from_labelled_alpaca(row: Fields, roles: Roles) -> Example:
    """Instruction, output and a label."""
    return {**from_alpaca(row, roles), "label": label_of(row)}


def from_labelled_conversation(row: Fields, roles: Roles) -> Example:
    """A conversation with a label; the label judges its last turn, which must be the assistant's."""
    name, _ = value_of(row, CONVERSATIONS)
    messages = conversation_of(row, name, roles)
    last = len(row[name]) - 1
    if messages[-1]["role"] != "assistant":
        what = f"{name} ends with a {messages[-1]['role']} turn"
        raise FieldFault(what, "end it with the answer that is judged", f"{name}[{last}]")
    if len(messages) == 1:
        raise FieldFault(f"{name} has no turn before the answer", "begin with what was asked", name)
    judged = check_answer(messages[-1:], name, last)
    return with_tools(row, {"prompt": only_read(messages[:-1]), "completion": judged, "label": label_of(row)})


def from_prompt(row: Fields, roles: Roles) -> Example:
    """Something to answer; the other columns (a solution, say) stay for whoever scores the answer."""
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


# --- what the rest of the house asks --------------------------------------------------------------------------------


def candidates(row: Mapping[str, Any]) -> list[Format]:
    """All formats that have their columns in the row, the most specific first."""
    return [fmt for fmt in FORMATS.values() if fmt.recognise(row)]


def recognise(row: Mapping[str, Any]) -> Format | None:
    """The most specific format that has its columns in the row."""
    return next(iter(candidates(row)), None)


def columns_error(row: Mapping[str, Any], where: str) -> Problem:
    """That no format fits, with the row's columns and what the five nearest formats lack."""
    found = ", ".join(f"{name} ({sort_of(value)})" for name, value in row.items()) or "none"
    nearest = [
        f"\n    {fmt.name}: {'; '.join(fmt.faults(row))}" for fmt in nearest_formats(row, list(FORMATS.values()))[:5]
    ]
    what = f"the columns are those of no known format\n  columns: {found}\n  nearest formats:{''.join(nearest)}"
    return Problem(where, what, "rename or map the columns to those of one of these formats")


def convert(fmt: Format, row: Row, *, wanted: Collection[str] = KINDS, roles: Roles | None = None) -> Example:
    """The row as an example of the format's kind, or of the kind it becomes for `wanted`.

    Args:
        wanted: kinds that the trainer takes; `kind_after` tells which of them comes out.
        roles: meanings of further role names (`data.roles`), over ROLES: {"customer": "user"}.

    Raises:
        DataError: names the row's place, the field, what is wrong with it and the remedy.
    """
    try:
        return to_kind(fmt.to_canonical(row.value, with_meanings(roles) if roles else ROLES), fmt.kind, wanted)
    except FieldFault as fault:
        raise DataError(RowProblem(row.where, fault.what, fault.fix, field=fault.field)) from None


def kind_after(kind: str, wanted: Collection[str]) -> str | None:
    """What examples of `kind` are turned into where `wanted` kinds are taken; None if that would lose something."""
    if kind in wanted:
        return kind
    return "messages" if kind == "pair" and "messages" in wanted else None


def to_kind(example: Example, kind: str, wanted: Collection[str]) -> Example:
    """An example of `kind` as one of the wanted kinds; text of a pair becomes a user's and the assistant's turn.

    Raises:
        FieldFault: nothing wanted can be made of it without loss. (Labels are never dropped: half of the answers may
            be bad.)
    """
    after = kind_after(kind, wanted)
    if after is None:
        raise FieldFault(f"a row of kind {kind} cannot become {' or '.join(wanted)} without loss")
    if after == kind:
        return example
    prompt = spoken(example["prompt"], "prompt", "user")
    if any(turn["role"] == "assistant" for turn in prompt):
        # In a pair these are only read; in messages they would be trained.
        raise FieldFault(
            "the prompt has earlier answers that would be trained too", "write the row as messages", "prompt"
        )
    completion = spoken(example["completion"], "completion", "assistant")
    return with_tools(example, {"messages": [*prompt, *completion]})


def kind_problem(fmt: Format, row: Mapping[str, Any], where: str, wanted: Collection[str], by: str) -> Problem | None:
    """That what the rows are is not what `by` (a method's name) takes; None if it is, or becomes so without loss."""
    if kind_after(fmt.kind, wanted):
        return None
    others = [other.name for other in candidates(row) if kind_after(other.kind, wanted)]
    fix = f"use data of one of these kinds, or a method that takes {fmt.kind}"
    if others:
        fix += f"; if it is meant so, name the format: the columns also fit {' or '.join(others)}"
    takes = " or ".join(wanted)
    return Problem(where, f"the rows are of kind {fmt.kind} (format {fmt.name}), and {by} takes {takes}", fix)
