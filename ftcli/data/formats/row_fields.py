"""What the formats share: columns under any of several names, and their conversion to turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.data.files.describe import describe_value
from ftcli.data.formats.columns import Example, column, is_label
from ftcli.data.formats.conversations import FieldFault, Roles, Turn, only_read, spoken, text, tools, turns

CONVERSATIONS = ("messages", "conversations", "conversation")
SYSTEM = ("system", "system_prompt")
QUESTIONS = ("query", "question", "input")
ANSWERS = ("response", "answer", "output")
INSTRUCTIONS = ("instruction", "question")
LABELS = ("label", "kto_tag")

Fields = Mapping[str, Any]


def value_of(row: Fields, names: tuple[str, ...]) -> tuple[str, Any]:
    """The first of the columns that has a value, and the value.

    Raises:
        FieldFault: no column has one.
    """
    name = column(row, names)
    if name is None:
        # A key with a null value is a different mistake from a missing key.
        null = next((name for name in names if name in row), None)
        fault = f"{null} is null" if null else f"has no column {' or '.join(names)} (only {', '.join(row) or 'none'})"
        raise FieldFault(fault, "fill it or remove the row", null or (names[0] if len(names) == 1 else ""))
    return name, row[name]


def question_of(row: Fields, question: str, extra: str = "") -> list[Turn]:
    """The prompt of an instruction: system, earlier exchanges, then the question with its extra input.

    Raises:
        FieldFault: one of them has the wrong type, or the question is empty.
    """
    prompt = _system(row)
    history = row.get("history") or []
    if not isinstance(history, list):
        raise FieldFault(
            f"history is {describe_value(history)}, not a list", "write it as [[question, answer], …]", "history"
        )
    for index, exchange in enumerate(history):
        if not isinstance(exchange, list) or len(exchange) != 2:
            what = f"history[{index}] is {describe_value(exchange)}, not a question and its answer"
            raise FieldFault(what, "pair them", f"history[{index}]")
        for part, role in enumerate(("user", "assistant")):
            prompt.append(_said_by(role, text(exchange[part], f"history[{index}][{part}]")))
    given = row.get(extra)
    added = "" if given is None else text(given, extra, may_be_empty=True)
    asked = text(value_of(row, (question,))[1], question, may_be_empty=bool(added.strip()))
    return [*prompt, _said_by("user", "\n".join(part for part in (asked, added) if part))]


def prompt_of(given: Any, field: str, roles: Roles) -> list[Turn]:
    """A prompt: text as a user turn, or turns; none of them is trained.

    Raises:
        FieldFault: as `spoken` does.
    """
    return only_read(spoken(given, field, "user", roles))


def conversation_of(row: Fields, name: str, roles: Roles) -> list[Turn]:
    """The turns in column `name`, after those of the system column.

    Raises:
        FieldFault: as `turns` does, or two system texts contradict each other.
    """
    given, system = turns(row[name], name, roles), _system(row)
    if system and given[0]["role"] == "system":
        if given[0] != system[0]:
            what = f"{name}[0] and the system column set different system texts"
            raise FieldFault(what, "keep one", f"{name}[0]")
        return given
    return [*system, *given]


def label_of(row: Fields) -> bool:
    """Whether the answer is labelled as good.

    Raises:
        FieldFault: the label is neither true nor false.
    """
    name, value = value_of(row, LABELS)
    if not is_label(value):
        fix = "label each answer true (good) or false (bad)"
        raise FieldFault(f"{name} is {describe_value(value)}, not true or false", fix, name)
    return str(value).lower() in ("true", "1")


def with_tools(row: Fields, example: Example) -> Example:
    """The example with the tools that the row declares, if any.

    Raises:
        FieldFault: as `tools` does.
    """
    declared = tools(row.get("tools"))
    rest = {name: value for name, value in example.items() if name != "tools"}
    return {**rest, "tools": declared} if declared else rest


def _said_by(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _system(row: Fields) -> list[Turn]:
    name = column(row, SYSTEM)
    content = text(row[name], name, may_be_empty=True) if name else ""
    return [_said_by("system", content)] if content else []
