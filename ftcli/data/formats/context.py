"""What surrounds a row's own columns in every format: system text, earlier exchanges, declared tools and the variables
of the chat template.

`registry.convert` adds them to every example, so no format can forget them. Beside any of them text becomes turns,
since only a conversation has a place for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.data.files.describe import describe_value
from ftcli.data.formats.columns import CONTEXT, HISTORY, SYSTEM, TOOLS, VARIABLES, Example, column
from ftcli.data.formats.conversations import ROLE_KEYS, FieldFault, Roles, Turn, only_read, spoken, text, tools, turns

ANSWERS_OF: Mapping[str, tuple[str, ...]] = {
    "pair": ("completion",),
    "label": ("completion",),
    "preference": ("chosen", "rejected"),
}
"""The answers in an example, by dataset type."""
_NAMES = frozenset(CONTEXT)


def with_context(kind: str, row: Mapping[str, Any], example: Example, roles: Roles) -> Example:
    """The example of dataset type `kind` with the row's system text, earlier exchanges, tools and template variables.

    Raises:
        FieldFault: one of them cannot be read, or two system texts or two lists of tools contradict each other.
    """
    if kind == "text" or _NAMES.isdisjoint(row):
        return example
    declared = {"tools": _declared(row), VARIABLES: _variables(row)}
    declared = {name: value for name, value in declared.items() if value}
    before = [*_system(row), *_history(row, roles)]
    if kind == "prompt":
        example = {name: value for name, value in example.items() if name not in CONTEXT}
    if not before and not declared:
        return example
    if kind == "messages":
        # Earlier exchanges are read and not trained, as those in the prompt of a pair.
        read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in before]
        example = {**example, "messages": _joined(read, example["messages"], row)}
    else:
        prompt = only_read(spoken(example["prompt"], "prompt", "user"))
        example = {**example, "prompt": _joined(before, prompt, row)}
        for side in ANSWERS_OF.get(kind, ()):
            example[side] = spoken(example[side], side, "assistant")
    return {**example, **declared}


def _joined(before: list[Turn], given: list[Turn], row: Mapping[str, Any]) -> list[Turn]:
    """The context before the turns of the row, which may open with a system turn of their own."""
    opening = given[:1] if given and given[0]["role"] == "system" else []
    system = before[:1] if before and before[0]["role"] == "system" else []
    if opening and system and opening != system:
        name = _opened_by(row)
        what = f"{name} and the {column(row, SYSTEM)} column set different system texts"
        raise FieldFault(what, "keep one", name)
    return [*(system or opening), *before[len(system) :], *given[len(opening) :]]


def _opened_by(row: Mapping[str, Any]) -> str:
    """The path of the row's first turn outside of the context."""
    for name, value in row.items():
        first = value[0] if name not in CONTEXT and isinstance(value, list) and value else None
        if isinstance(first, dict) and any(first.get(key) == "system" for key in ROLE_KEYS):
            return f"{name}[0]"
    return "the first turn"


def _only(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The one of the columns that has a value.

    Raises:
        FieldFault: two of them hold different things.
    """
    given = [name for name in names if row.get(name) not in (None, "", [])]
    if any(row[name] != row[given[0]] for name in given[1:]):
        raise FieldFault(f"{' and '.join(given)} hold different things", "keep one of them", given[1])
    return given[0] if given else None


def _system(row: Mapping[str, Any]) -> list[Turn]:
    name = _only(row, SYSTEM)
    return [_said_by("system", text(row[name], name, may_be_empty=True))] if name else []


def _history(row: Mapping[str, Any], roles: Roles) -> list[Turn]:
    """Earlier exchanges: pairs of a question and its answer, or turns."""
    said: list[Turn] = []
    for name in HISTORY:
        given = row.get(name) or []
        if not isinstance(given, list):
            fix = "write it as [[question, answer], …]"
            raise FieldFault(f"{name} is {describe_value(given)}, not a list", fix, name)
        if given and all(isinstance(turn, dict) for turn in given):
            said += only_read(turns(given, name, roles))
            continue
        for index, exchange in enumerate(given):
            if not isinstance(exchange, list) or len(exchange) != 2:
                what = f"{name}[{index}] is {describe_value(exchange)}, not a question and its answer"
                raise FieldFault(what, "pair them", f"{name}[{index}]")
            for part, role in enumerate(("user", "assistant")):
                said.append(_said_by(role, text(exchange[part], f"{name}[{index}][{part}]")))
    return said


def _declared(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    name = _only(row, TOOLS)
    return tools(row[name], name) if name else []


def _variables(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values for variables of the chat template; null is no value, since tables hold it where another row has one."""
    from ftcli.models.templates.template_rendering import GIVEN  # with all that rendering needs, for few rows

    given = row.get(VARIABLES)
    if given in (None, ""):
        return {}
    with contextlib.suppress(ValueError):
        given = foreign_files.parse_json(given) if isinstance(given, str) else given
    if not isinstance(given, dict):
        fix = "write it as {name: value}"
        raise FieldFault(f"{VARIABLES} is {describe_value(given)}, not an object", fix, VARIABLES)
    for name in given:
        if name in GIVEN or not str(name).isidentifier():
            what = f"{VARIABLES} sets {name!r}, which is no variable of a chat template"
            raise FieldFault(what, "remove it", f"{VARIABLES}.{name}")
    return {name: value for name, value in given.items() if value is not None}


def _said_by(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
