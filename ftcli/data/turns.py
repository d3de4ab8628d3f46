"""Conversations of every dialect, made into one: {"role", "content"} turns with text content.

Speaks of fields, not of files: a FieldFault names the field inside the row, and `formats.convert` adds the row's place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ftcli.data.words import said
from ftcli.errors import DataError, Problem

Turn = dict[str, Any]
Roles = Mapping[str, str]

CALL = "tool_call"
"""The role of a turn whose text is the JSON of the assistant's call."""

ROLES: Roles = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", CALL), CALL),
}
"""What the roles of known sets mean; looked up as written, then in lower case."""

# Beside these an empty content is no empty answer.
_SPEAKS_WITHOUT_CONTENT = ("tool_calls", "reasoning_content", "thinking")
_MAY_BE_EMPTY = ("system", "developer", "tool")


class FieldFault(DataError):
    """A field of a row cannot be used; the row's place is not known here."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(Problem("", what, fix))
        self.what, self.fix = what, fix


def text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """`value`, known to be text that says something.

    Raises:
        FieldFault: it is not text, or blank.
    """
    if not isinstance(value, str):
        raise FieldFault(f"{field} is {said(value)}, not text", f"write {field} as text")
    if not may_be_empty and not value.strip():
        raise FieldFault(f"{field} is empty", "fill it or remove the row")
    return value


def turns(value: Any, field: str, roles: Roles = ROLES) -> list[Turn]:
    """A conversation, or one turn, in OpenAI's or ShareGPT's words as a list of canonical turns.

    A canonical turn has `role` (system, developer, user, assistant or tool), `content` (text) and, where there are
    any, `tool_calls` whose arguments are objects; further keys of the turn are kept, null ones are not.

    Args:
        value: list of turns, or one turn.
        field: what to call it in an error.
        roles: meaning of each role that may occur, like ROLES.

    Raises:
        FieldFault: it is no conversation, has no turn, or a turn is unusable.
    """
    if isinstance(value, dict):
        return [_turn(value, field, roles)]
    if not isinstance(value, list):
        raise FieldFault(f"{field} is {said(value)}, not a list of turns", "write it as a list of {role, content}")
    if not value:
        raise FieldFault(f"{field} is empty", "fill it or remove the row")
    return [_turn(turn, f"{field}[{index}]", roles) for index, turn in enumerate(value)]


def spoken(value: Any, field: str, role: str, roles: Roles = ROLES) -> list[Turn]:
    """Turns as `turns` reads them; text as one turn of `role`.

    Raises:
        FieldFault: as `text` and `turns` do.
    """
    return [{"role": role, "content": text(value, field)}] if isinstance(value, str) else turns(value, field, roles)


def answer(value: Any, field: str, roles: Roles = ROLES) -> list[Turn]:
    """Text or turns as an answer: the first and the last turn the assistant's, only tools' between them.

    Raises:
        FieldFault: somebody else speaks in it, or as `spoken` does.
    """
    return check_answer(spoken(value, field, "assistant", roles), field)


def check_answer(given: list[Turn], field: str) -> list[Turn]:
    """Canonical turns, known to be an answer.

    Raises:
        FieldFault: somebody else than the assistant speaks in it.
    """
    for index, turn in enumerate(given):
        allowed = ("assistant", "tool") if 0 < index < len(given) - 1 else ("assistant",)
        if turn["role"] not in allowed:
            which = field if len(given) == 1 else f"turn {index + 1} of the answer in {field}"
            raise FieldFault(f"{which} is a {turn['role']} turn, not the assistant's", "an answer is the assistant's")
    return given


def _turn(turn: Any, field: str, roles: Roles) -> Turn:
    if not isinstance(turn, dict):
        raise FieldFault(f"{field} is {said(turn)}, not an object", "write it as {role, content}")
    role_key, content_key = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    given = {key: value for key, value in turn.items() if value is not None}
    role = _role(given.pop(role_key, None), f"{field}.{role_key}", roles)
    content = given.pop(content_key, None)
    content_field = f"{field}.{content_key}"
    _refuse_weights(given, field)
    calls = given.pop("tool_calls", None) or []
    if function_call := given.pop("function_call", None):
        calls = [function_call]
    if role == CALL:
        role, calls, content = "assistant", _parsed(content, content_field, "the JSON of a call"), None
        if not calls:
            raise FieldFault(f"{content_field} holds no call", "fill it or remove the turn")
    if calls:
        if role != "assistant":
            raise FieldFault(f"{field} calls a tool as {role}", "only the assistant calls tools")
        if made := _calls(calls, content_field if role_key == "from" else f"{field}.tool_calls"):
            given["tool_calls"] = made
    if content is None:
        if not any(key in given for key in _SPEAKS_WITHOUT_CONTENT):
            raise FieldFault(f"{content_field} is missing (the turn has {', '.join(turn) or 'nothing'})", "add it")
        content = ""
    content = _joined(content, content_field)
    silent = role in _MAY_BE_EMPTY or any(given.get(key) for key in _SPEAKS_WITHOUT_CONTENT)
    return {**given, "role": role, "content": text(content, content_field, may_be_empty=silent)}


def _role(name: Any, field: str, roles: Roles) -> str:
    if not isinstance(name, str):
        fault = "is missing" if name is None else f"is {said(name)}, not text"
        raise FieldFault(f"{field} {fault}", "say who speaks: system, user, assistant or tool")
    role = roles.get(name) or roles.get(name.lower())
    if role is None:
        raise FieldFault(f"{field} is {name!r}, which is no known role", f"known roles: {', '.join(roles)}")
    return role


def _refuse_weights(turn: Turn, field: str) -> None:
    """Drops what says "train this turn as any other"; a turn meant to count otherwise must not be trained like one."""
    for key in ("weight", "loss", "train"):
        if key in turn and turn.pop(key) not in (1, True):
            fix = f"remove {key}, or end the conversation before this turn"
            raise FieldFault(f"{field}.{key} asks for a turn that counts otherwise; every answer is trained alike", fix)


def _joined(content: Any, field: str) -> Any:
    """Content given in parts as one text; anything else as it is."""
    if not isinstance(content, list):
        return content
    parts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type", "unknown") if isinstance(part, dict) else said(part)
            raise FieldFault(f"{field}[{index}] is no text part but {kind}", "only text can be trained")
        parts.append(part["text"])
    return "".join(parts)


def _parsed(value: Any, field: str, what: str) -> list[Any]:
    """JSON text, or what it would hold, as a list."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            raise FieldFault(
                f"{field} is not {what}: {fault}", 'write it as JSON, {"name": …} in double quotes'
            ) from None
    return value if isinstance(value, list) else [value]


def _calls(calls: Any, field: str) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments": object}}, other keys kept."""
    made = []
    for index, call in enumerate(_parsed(calls, field, "a list of calls")):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise FieldFault(f"{field}: call {index} names no function", 'write it as {"name": …, "arguments": {…}}')
        arguments = function.get("arguments", function.get("parameters"))
        if arguments is None or arguments == "":
            arguments = {}
        if not isinstance(arguments, dict):
            # OpenAI's own format holds them as JSON text; chat templates want the object.
            (arguments,) = _parsed(arguments, f"{field}: call {index}'s arguments", "JSON")[:1] or [None]
        if not isinstance(arguments, dict):
            raise FieldFault(f"{field}: call {index}'s arguments are {said(arguments)}, not an object", "name each one")
        rest = {key: value for key, value in call.items() if function is not call and value is not None}
        made.append({**rest, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return made


def tools(value: Any, field: str = "tools") -> list[dict[str, Any]]:
    """Declared tools, given as a list or its JSON, as {"type": "function", "function": {"name", …}}; none is [].

    Raises:
        FieldFault: not JSON, or a tool without a name.
    """
    if value is None or value == "":
        return []
    made = []
    for index, tool in enumerate(_parsed(value, field, "a JSON list of tools")):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise FieldFault(f"{field}[{index}] names no function", 'write it as {"name": …, "parameters": {…}}')
        made.append(tool if function is not tool else {"type": "function", "function": tool})
    return made
