"""Conversations of every dialect, made into one: {"role", "content"} turns with text content.

Speaks of fields, not of files: a FieldFault names the field inside the row, and `formats.convert` adds the row's place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.files.describe import said

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

ROLE_KEYS = ("role", "from", "speaker", "author")
"""Keys that say who speaks; of several with a value the first counts."""

CONTENT_KEYS = ("content", "value", "text", "message")
"""Keys that hold what is said."""

WEIGHT_KEYS = ("weight", "loss", "train")
"""Keys that say whether a turn is trained: 0 or false, 1 or true."""

WEIGHTS = frozenset(WEIGHT_KEYS)

# Beside these an empty content is no empty answer.
_SPEAKS_WITHOUT_CONTENT = ("tool_calls", "reasoning_content", "thinking")
_MAY_BE_EMPTY = ("system", "developer", "tool")


class FieldFault(DataError):
    """A field of a row cannot be used; the row's place is not known here.

    `field` is the path inside the row (`messages[2].content`, `output`), "" if it is the row as a whole.
    """

    def __init__(self, what: str, fix: str = "", field: str = "") -> None:
        super().__init__(RowProblem("", what, fix, field=field))
        self.what, self.fix, self.field = what, fix, field


def with_meanings(roles: Roles) -> Roles:
    """ROLES and further names; a meaning may itself be any name in ROLES, and one that says nothing is left out."""
    meant = {name: ROLES.get(meaning.lower()) for name, meaning in roles.items()}
    return {**ROLES, **{name: meaning for name, meaning in meant.items() if meaning}}


def text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """`value`, known to be text that says something.

    Raises:
        FieldFault: it is not text, or blank.
    """
    if not isinstance(value, str):
        raise FieldFault(f"{field} is {said(value)}, not text", f"write {field} as text", field)
    if not may_be_empty and not value.strip():
        raise FieldFault(f"{field} is empty", "fill it or remove the row", field)
    return value


def turns(value: Any, field: str, roles: Roles = ROLES) -> list[Turn]:
    """A conversation, or one turn, in OpenAI's or ShareGPT's words as a list of canonical turns.

    A canonical turn has `role` (system, developer, user, assistant or tool), `content` (text) and, where there are
    any, `tool_calls` whose arguments are objects; an assistant's turn that is not to be trained has `weight` 0. Further
    keys of the turn are kept, null ones are not.

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
        raise FieldFault(
            f"{field} is {said(value)}, not a list of turns", "write it as a list of {role, content}", field
        )
    if not value:
        raise FieldFault(f"{field} is empty", "fill it or remove the row", field)
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
        FieldFault: somebody else speaks in it, it is not to be trained, or as `spoken` does.
    """
    return check_answer(spoken(value, field, "assistant", roles), field, 0 if isinstance(value, list) else None)


def check_answer(given: list[Turn], field: str, start: int | None) -> list[Turn]:
    """Canonical turns, known to be an answer that is trained whole.

    Args:
        start: index under which its first turn stands in the list `field`; None if the field is that turn.

    Raises:
        FieldFault: somebody else than the assistant speaks in it, or a turn is not to be trained.
    """
    for index, turn in enumerate(given):
        place = field if start is None else f"{field}[{start + index}]"
        allowed = ("assistant", "tool") if 0 < index < len(given) - 1 else ("assistant",)
        if turn["role"] not in allowed:
            which = field if len(given) == 1 else f"turn {index + 1} of the answer in {field}"
            what = f"{which} is a {turn['role']} turn, not the assistant's"
            raise FieldFault(what, "an answer is the assistant's", place)
        if "weight" in turn:
            what = f"{place} is part of the answer and is not to be trained"
            raise FieldFault(what, "train the answer whole, or remove the row", f"{place}.weight")
    return given


def only_read(given: list[Turn]) -> list[Turn]:
    """Canonical turns of a prompt, which is read and never trained: no turn of it needs to say so."""
    return [{key: value for key, value in turn.items() if key != "weight"} for turn in given]


def check_trained(given: list[Turn], field: str) -> list[Turn]:
    """Canonical turns, known to have an assistant's among them that is trained.

    Raises:
        FieldFault: there is none.
    """
    answers = [turn for turn in given if turn["role"] == "assistant"]
    if not answers:
        raise FieldFault(f"{field} has no assistant turn", "there is nothing to learn from it: add the answer", field)
    if all("weight" in turn for turn in answers):
        raise FieldFault(f"in {field} no assistant turn is trained", "train one of them, or remove the row", field)
    return given


def answer_to(prompt: str | list[Turn], said: str) -> str | list[Turn]:
    """A text as the answer to a prompt, in the form of the prompt: text beside text, else the assistant's turn."""
    return said if isinstance(prompt, str) else [{"role": "assistant", "content": said}]


def last_trained(value: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical columns in which, of the assistant's turns that would be trained, only the last is."""
    if "messages" in value:
        given = value["messages"]
        last = max(i for i, turn in enumerate(given) if turn["role"] == "assistant" and "weight" not in turn)
        read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in given[:last]]
        return {**value, "messages": [*read, *given[last:]]}
    answer = value.get("completion")
    if not isinstance(answer, list):
        return dict(value)
    last = max(i for i, turn in enumerate(answer) if turn["role"] == "assistant")
    return {**value, "prompt": [*value["prompt"], *answer[:last]], "completion": answer[last:]}


def key_of(turn: Mapping[str, Any], keys: tuple[str, ...], otherwise: str) -> str:
    """The first of the keys that has a value; if none has, the first that is there, or `otherwise`."""
    for key in keys:
        if turn.get(key) is not None:
            return key
    return next((key for key in keys if key in turn), otherwise)


def _plain(turn: dict[str, Any], roles: Roles) -> Turn | None:
    """A turn of nothing but a known role and its text, as nearly all are; None leaves it to `_turn`."""
    if len(turn) != 2:
        return None
    for role_key, content_key in (("role", "content"), ("from", "value")):
        content = turn.get(content_key)
        if type(content) is str and content and not content.isspace():
            role = roles.get(turn[role_key]) if type(turn.get(role_key)) is str else None
            return {"role": role, "content": content} if role is not None and role != CALL else None
    return None


def _turn(turn: Any, field: str, roles: Roles) -> Turn:
    if not isinstance(turn, dict):
        raise FieldFault(f"{field} is {said(turn)}, not an object", "write it as {role, content}", field)
    if (plain := _plain(turn, roles)) is not None:
        return plain
    role_key = key_of(turn, ROLE_KEYS, "role")
    content_key = key_of(turn, CONTENT_KEYS, "value" if role_key == "from" else "content")
    given = {key: value for key, value in turn.items() if value is not None}
    role = _role(given.pop(role_key, None), f"{field}.{role_key}", roles)
    content = given.pop(content_key, None)
    content_field = f"{field}.{content_key}"
    calls, calls_field = given.pop("tool_calls", None) or [], f"{field}.tool_calls"
    if function_call := given.pop("function_call", None):
        calls = [function_call]
    if role == CALL:
        role, calls_field = "assistant", content_field
        calls, content = _parsed(content, content_field, "the JSON of a call"), None
        if not calls:
            raise FieldFault(f"{content_field} holds no call", "fill it or remove the turn", content_field)
    if not WEIGHTS.isdisjoint(given) and not _trained(given, field) and role == "assistant":
        given["weight"] = 0
    if calls:
        if role != "assistant":
            raise FieldFault(f"{field} calls a tool as {role}", "only the assistant calls tools", calls_field)
        if made := _calls(calls, calls_field):
            given["tool_calls"] = made
    if content is None:
        if not any(key in given for key in _SPEAKS_WITHOUT_CONTENT):
            what = f"{content_field} is missing (the turn has {', '.join(turn) or 'nothing'})"
            raise FieldFault(what, "add it", content_field)
        content = ""
    content = _joined(content, content_field)
    silent = role in _MAY_BE_EMPTY or any(given.get(key) for key in _SPEAKS_WITHOUT_CONTENT)
    return {**given, "role": role, "content": text(content, content_field, may_be_empty=silent)}


def _role(name: Any, field: str, roles: Roles) -> str:
    if not isinstance(name, str):
        fault = "is missing" if name is None else f"is {said(name)}, not text"
        raise FieldFault(f"{field} {fault}", "say who speaks: system, user, assistant or tool", field)
    role = roles.get(name) or roles.get(name.lower())
    if role is None:
        what = f"{field} is {name!r}, which is no known role"
        raise FieldFault(what, f"say who it is: {_setting(name)}   (known roles: {', '.join(roles)})", field)
    return role


def _setting(name: str) -> str:
    """How to give a role a meaning: as an override where the name needs no quotes there, else as a line of YAML."""
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"data.roles={{{name}: user}}"
    return f"data.roles: {{{json.dumps(name, ensure_ascii=False)}: user}} in the recipe"


def _trained(given: Turn, field: str) -> bool:
    """Takes what says whether the turn is trained out of it."""
    asked = {key: given.pop(key) for key in WEIGHT_KEYS if key in given}
    for key, value in asked.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            what = f"{field}.{key} is {said(value)}, and a turn is either trained or not"
            raise FieldFault(what, "write 1 (trained) or 0 (only read)", f"{field}.{key}")
    if len(set(map(bool, asked.values()))) > 1:
        what = f"{field} is to be trained by one of {', '.join(asked)} and not by another"
        raise FieldFault(what, "keep one of them", field)
    return all(asked.values())


def _joined(content: Any, field: str) -> Any:
    """Content given in parts as one text; anything else as it is."""
    if not isinstance(content, list):
        return content
    parts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type", "unknown") if isinstance(part, dict) else said(part)
            raise FieldFault(
                f"{field}[{index}] is no text part but {kind}", "only text can be trained", f"{field}[{index}]"
            )
        parts.append(part["text"])
    return "".join(parts)


def _parsed(value: Any, field: str, what: str, place: str = "") -> list[Any]:
    """JSON text, or what it would hold, as a list; `place` is the path of the field where its name is not."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            fix = 'write it as JSON, {"name": …} in double quotes'
            raise FieldFault(f"{field} is not {what}: {fault}", fix, place or field) from None
    return value if isinstance(value, list) else [value]


def _calls(calls: Any, field: str) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments": object}}, other keys kept."""
    made = []
    for index, call in enumerate(_parsed(calls, field, "a list of calls")):
        place = f"{field}[{index}]" if isinstance(calls, list) else field
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            fix = 'write it as {"name": …, "arguments": {…}}'
            raise FieldFault(f"{field}: call {index} names no function", fix, place)
        arguments = function.get("arguments", function.get("parameters"))
        if arguments is None or arguments == "":
            arguments = {}
        if not isinstance(arguments, dict):
            # OpenAI's own format holds them as JSON text; chat templates want the object.
            (arguments,) = _parsed(arguments, f"{field}: call {index}'s arguments", "JSON", place)[:1] or [None]
        if not isinstance(arguments, dict):
            what = f"{field}: call {index}'s arguments are {said(arguments)}, not an object"
            raise FieldFault(what, "name each one", place)
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
            fix = 'write it as {"name": …, "parameters": {…}}'
            raise FieldFault(f"{field}[{index}] names no function", fix, f"{field}[{index}]")
        made.append(tool if function is not tool else {"type": "function", "function": tool})
    return made
