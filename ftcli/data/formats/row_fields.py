"""What the formats share: columns under any of several names, and their conversion to turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.data.files.describe import describe_value
from ftcli.data.formats.columns import LABELS, column, label_column, label_value
from ftcli.data.formats.conversations import FieldFault, Roles, Turn, only_read, spoken, text

CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = ("query", "question", "input")
ANSWERS = ("response", "answer", "output")
INSTRUCTIONS = ("instruction", "question", "query", "input")
INPUT = "input"
"""The column of what an instruction is to be applied to."""
CHOSEN = ("chosen", "chosen_response", "chosen_messages")
REJECTED = ("rejected", "rejected_response", "rejected_messages")

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


def question_of(row: Fields, question: str) -> list[Turn]:
    """The prompt of an instruction: one user turn, the question with its input on the next line if there is one.

    Raises:
        FieldFault: one of them has the wrong type, or the question is empty.
    """
    given = row.get(INPUT) if question != INPUT else None
    added = "" if given is None else text(given, INPUT, may_be_empty=True)
    asked = text(value_of(row, (question,))[1], question, may_be_empty=bool(added.strip()))
    return [{"role": "user", "content": f"{asked}\n{added}" if asked and added else asked or added}]


def prompt_of(given: Any, field: str, roles: Roles) -> list[Turn]:
    """A prompt: text as a user turn, or turns; none of them is trained.

    Raises:
        FieldFault: as `spoken` does.
    """
    return only_read(spoken(given, field, "user", roles))


def label_of(row: Fields) -> bool:
    """Whether the answer is labelled as good.

    Raises:
        FieldFault: the label is neither true nor false, nor a word for one of them.
    """
    name = label_column(row) or value_of(row, LABELS)[0]
    label = label_value(row[name])
    if label is None:
        fix = "label each answer true (good) or false (bad)"
        raise FieldFault(f"{name} is {describe_value(row[name])}, not true or false", fix, name)
    return label
