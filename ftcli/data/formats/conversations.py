"""Conversations of every dialect, converted to one: {"role", "content"} turns with text content.

This module knows fields, not files: a FieldFault names the field inside the row, and `registry.convert` adds the row's
place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.files.describe import describe_value

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
"""Role names of known data sets and their meaning; looked up as written, then in lower case."""

ROLE_KEYS = ("role", "from", "speaker", "author")
"""Keys of the role; of several with a value the first counts."""

CONTENT_KEYS = ("content", "value", "text", "message")
"""Keys of the content."""

WEIGHT_KEYS = ("weight", "loss", "train", "training", "loss_weight")
"""Keys of what a turn weighs in the loss: 0 or false is not trained, 1 or true is, and 0.5 half as much."""

WEIGHTS = frozenset(WEIGHT_KEYS)

_NO_TEXT = frozenset({"images", "image", "videos", "video", "audio", "audios"})
_PARTLY_TRAINED = ("train_detail", "content_train_detail")
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_REASONING_PARTS = ("reasoning", "thinking")
_CALL_PARTS = ("tool_call", "tool_calls", "function_call")

# With one of these, a turn without content is not an empty answer.
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
    """ROLES with further names; a meaning may be any name in ROLES, and an unknown meaning is ignored."""
    meant = {name: ROLES.get(meaning.lower()) for name, meaning in roles.items()}
    return {**ROLES, **{name: meaning for name, meaning in meant.items() if meaning}}


def text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """`value`, checked to be text that is not blank.

    Raises:
        FieldFault: it is not text, or is blank.
    """
    if not isinstance(value, str):
        raise FieldFault(f"{field} is {describe_value(value)}, not text", f"write {field} as text", field)
    if not may_be_empty and not value.strip():
        raise FieldFault(f"{field} is empty", "fill it or remove the row", field)
    return value


def turns(value: Any, field: str, roles: Roles = ROLES) -> list[Turn]:
    """A conversation, or one turn, in OpenAI's or ShareGPT's format, as a list of canonical turns.

    A canonical turn has `role` (system, developer, user, assistant or tool), `content` (text) and, where there are
    any, `tool_calls` whose arguments are objects. An assistant turn that is not to be trained has `weight` 0, and one
    that weighs something else than 1 in the loss has that `weight`. Further keys of a turn are kept unless null.

    Args:
        value: list of turns, or one turn.
        field: what to call it in an error.
        roles: meaning of each role that may occur, like ROLES.

    Raises:
        FieldFault: it is not a conversation, has no turn, or has an unusable turn.
    """
    if isinstance(value, dict):
        return [_turn(value, field, roles)]
    if not isinstance(value, list):
        raise FieldFault(
            f"{field} is {describe_value(value)}, not a list of turns", "write it as a list of {role, content}", field
        )
    if not value:
        raise FieldFault(f"{field} is empty", "fill it or remove the row", field)
    return [_turn(turn, f"{field}[{index}]", roles) for index, turn in enumerate(value)]


def spoken(value: Any, field: str, role: str, roles: Roles = ROLES) -> list[Turn]:
    """The value as turns: as `turns` reads them, or text as one turn of `role`.

    Raises:
        FieldFault: as `text` and `turns` do.
    """
    return [{"role": role, "content": text(value, field)}] if isinstance(value, str) else turns(value, field, roles)


def answer(value: Any, field: str, roles: Roles = ROLES, *, weighted: bool = False) -> list[Turn]:
    """Text or turns as an answer: it starts and ends with an assistant turn, with only tool turns between others.

    Args:
        weighted: whether its turns may weigh more or less than 1.

    Raises:
        FieldFault: it has a turn of another role or an untrained one, or as `spoken` does.
    """
    given, start = spoken(value, field, "assistant", roles), 0 if isinstance(value, list) else None
    return check_answer(given, field, start, weighted=weighted)


def check_answer(given: list[Turn], field: str, start: int | None, *, weighted: bool = False) -> list[Turn]:
    """Canonical turns, checked to be an answer that is trained whole.

    Args:
        start: index of its first turn in the list `field`; None if the field is that turn.
        weighted: whether its turns may weigh more or less than 1.

    Raises:
        FieldFault: it has a turn of another role than the assistant, or an untrained or weighted one.
    """
    for index, turn in enumerate(given):
        place = field if start is None else f"{field}[{start + index}]"
        allowed = ("assistant", "tool") if 0 < index < len(given) - 1 else ("assistant",)
        if turn["role"] not in allowed:
            which = field if len(given) == 1 else f"turn {index + 1} of the answer in {field}"
            what = f"{which} is a {turn['role']} turn, not the assistant's"
            raise FieldFault(what, "only the assistant answers", place)
        if turn.get("weight", 0) and not weighted:
            what = f"{place} weighs {turn['weight']:g}, and only whole answers are compared"
            raise FieldFault(what, "give the row a weight, in a column of that name", f"{place}.weight")
        if turn.get("weight", 1) == 0:
            what = f"{place} is part of the answer but marked as untrained"
            raise FieldFault(what, "train the whole answer, or remove the row", f"{place}.weight")
    return given


def only_read(given: list[Turn]) -> list[Turn]:
    """Canonical turns of a prompt without their `weight`, since no prompt turn is ever trained."""
    return [{key: value for key, value in turn.items() if key != "weight"} for turn in given]


def check_trained(given: list[Turn], field: str) -> list[Turn]:
    """Canonical turns, checked to have at least one trained assistant turn.

    Raises:
        FieldFault: there is none.
    """
    answers = [turn for turn in given if turn["role"] == "assistant"]
    if not answers:
        raise FieldFault(
            f"{field} has no assistant turn", "add the answer: without one there is nothing to train", field
        )
    if not any(turn.get("weight", 1) for turn in answers):
        raise FieldFault(f"in {field} no assistant turn is trained", "train one of them, or remove the row", field)
    return given


def answer_to(prompt: str | list[Turn], content: str) -> str | list[Turn]:
    """A text as the answer to a prompt, in the prompt's form: text for text, else an assistant turn."""
    return content if isinstance(prompt, str) else [{"role": "assistant", "content": content}]


def last_trained(value: Mapping[str, Any]) -> dict[str, Any]:
    """Canonical columns in which only the last of the trained assistant turns stays trained."""
    if "messages" in value:
        given = value["messages"]
        last = max(i for i, turn in enumerate(given) if turn["role"] == "assistant" and turn.get("weight", 1))
        read = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in given[:last]]
        return {**value, "messages": [*read, *given[last:]]}
    # A completion of several assistant turns is shortened to the last; the others move to the prompt.
    answer = value.get("completion")
    if not isinstance(answer, list):
        return dict(value)
    last = max(i for i, turn in enumerate(answer) if turn["role"] == "assistant")
    return {**value, "prompt": [*value["prompt"], *answer[:last]], "completion": answer[last:]}


def key_of(turn: Mapping[str, Any], keys: tuple[str, ...], otherwise: str) -> str:
    """The first key that has a value; else the first that is present, or `otherwise`."""
    for key in keys:
        if turn.get(key) is not None:
            return key
    return next((key for key in keys if key in turn), otherwise)


def _plain(turn: dict[str, Any], roles: Roles) -> Turn | None:
    """The fast path for a turn with only a known role and text, as nearly all are; None leaves it to `_turn`."""
    if len(turn) != 2:
        return None
    for role_key, content_key in (("role", "content"), ("from", "value")):
        content = turn.get(content_key)
        if type(content) is str and content and not content.isspace():
            role = roles.get(turn[role_key]) if type(turn.get(role_key)) is str else None
            return {"role": role, "content": content} if role is not None and role != CALL else None
    return None


def _turn(turn: Any, field: str, roles: Roles) -> Turn:
    """One canonical turn; every dialect of role, content, tool calls and loss mask is resolved here."""
    if not isinstance(turn, dict):
        raise FieldFault(f"{field} is {describe_value(turn)}, not an object", "write it as {role, content}", field)
    if (plain := _plain(turn, roles)) is not None:
        return plain
    role_key = key_of(turn, ROLE_KEYS, "role")
    content_key = key_of(turn, CONTENT_KEYS, "value" if role_key == "from" else "content")
    given = {key: value for key, value in turn.items() if value is not None}
    role = _role(given.pop(role_key, None), f"{field}.{role_key}", roles)
    _refuse_unread(given, field)
    content = given.pop(content_key, None)
    content_field = f"{field}.{content_key}"
    calls, calls_field = given.pop("tool_calls", None) or [], f"{field}.tool_calls"
    if isinstance(content, list) and role != CALL:
        content, reasoning, part_calls = _parts(content, content_field)
        if reasoning:
            given["reasoning_content"] = reasoning
        if part_calls:
            calls, calls_field = part_calls, content_field
    if function_call := given.pop("function_call", None):  # OpenAI's older key, for a single call
        calls = [function_call]
    if role == CALL:  # ShareGPT: the call is the content, as JSON
        role, calls_field = "assistant", content_field
        calls, content = _parsed(content, content_field, "the JSON of a call"), None
        if not calls:
            raise FieldFault(f"{content_field} contains no call", "fill it or remove the turn", content_field)
    # Only an assistant turn keeps a `weight`: other roles are never trained, whatever they are marked as.
    if not WEIGHTS.isdisjoint(given) and (weight := _weight(given, field)) != 1 and role == "assistant":
        given["weight"] = weight
    if calls:
        if role != "assistant":
            raise FieldFault(f"{field} calls a tool as {role}", "only the assistant calls tools", calls_field)
        if parsed := _calls(calls, calls_field):
            given["tool_calls"] = parsed
    if content is None:
        if not any(key in given for key in _SPEAKS_WITHOUT_CONTENT):
            what = f"{content_field} is missing (the turn has {', '.join(turn) or 'nothing'})"
            raise FieldFault(what, "add it", content_field)
        content = ""
    # A tool may return nothing, and a call or a reasoning text may come without an answer.
    silent = role in _MAY_BE_EMPTY or any(given.get(key) for key in _SPEAKS_WITHOUT_CONTENT)
    return {**given, "role": role, "content": text(content, content_field, may_be_empty=silent)}


def _role(name: Any, field: str, roles: Roles) -> str:
    """The canonical role of a name."""
    if not isinstance(name, str):
        fault = "is missing" if name is None else f"is {describe_value(name)}, not text"
        raise FieldFault(f"{field} {fault}", "set it to system, user, assistant or tool", field)
    role = roles.get(name) or roles.get(name.lower())
    if role is None:
        what = f"{field} is {name!r}, an unknown role"
        raise FieldFault(what, f"say what it means: {_setting(name)}   (known roles: {', '.join(roles)})", field)
    return role


_WHO_ANSWERS = ("agent", "support", "operator", "representative", "advisor", "adviser", "seller", "expert", "teacher")
"""Names that logs give to those who answer: likely assistants, but never taken for one unasked."""


def _setting(name: str) -> str:
    """The setting that maps a role: as an override if the name needs no quotes there, else as a line of YAML."""
    meaning = "assistant" if any(word in name.lower() for word in _WHO_ANSWERS) else "user"
    if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        return f"data.roles={{{name}: {meaning}}}"
    return f"data.roles: {{{json.dumps(name, ensure_ascii=False)}: {meaning}}} in the recipe"


def _weight(given: Turn, field: str) -> float:
    """What the turn weighs in the loss, 0 if it is not trained; removes the keys that say so."""
    marks = {key: given.pop(key) for key in WEIGHT_KEYS if key in given}
    for key, value in marks.items():
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            what = f"{field}.{key} is {describe_value(value)}, not a number of at least 0"
            raise FieldFault(
                what, "write 1 (trained), 0 (only read), or what its loss is multiplied by", f"{field}.{key}"
            )
    if len(set(map(bool, marks.values()))) > 1:
        what = f"{field} is marked both as trained and as untrained by {', '.join(marks)}"
        raise FieldFault(what, "keep one of them", field)
    # `true` beside a number only says that the turn is trained.
    numbers = {float(value) for value in marks.values() if value is not True}
    if len(numbers) > 1:
        raise FieldFault(f"{field} has different weights in {', '.join(marks)}", "keep one of them", field)
    return numbers.pop() if numbers else 1


def _refuse_unread(given: Turn, field: str) -> None:
    """Refuse a turn with something that is not read but would change what it means."""
    for key in _NO_TEXT.intersection(given):
        if given[key]:
            raise FieldFault(f"{field}.{key} is not read: only text can be trained", "remove the row", f"{field}.{key}")
        del given[key]
    for key in _PARTLY_TRAINED:
        if given.get(key):
            what = f"{field}.{key} trains part of a turn, which is not supported"
            raise FieldFault(what, "train the whole turn, or split it in two", f"{field}.{key}")


def _parts(content: list[Any], field: str) -> tuple[Any, str, list[Any]]:
    """Content in parts as one text (None if it has no text part), its reasoning, and its tool calls."""
    said: list[str] = []
    reasoning: list[str] = []
    calls: list[Any] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else describe_value(part)
        keys = ("text", "value", "thinking", "reasoning") if kind in _REASONING_PARTS else ("text", "value")
        given = next((part[key] for key in keys if part.get(key) is not None), None) if isinstance(part, dict) else None
        place = f"{field}[{index}]"
        if kind in _CALL_PARTS and given is not None:
            calls += _parsed(given, place, "the JSON of a call")
        elif kind in (*_TEXT_PARTS, *_REASONING_PARTS) and isinstance(given, str):
            (reasoning if kind in _REASONING_PARTS else said).append(given)
        else:
            raise FieldFault(f"{place} is not a text part but {kind or 'unknown'}", "only text can be trained", place)
    return ("".join(said) if said or not (reasoning or calls) else None), "".join(reasoning), calls


def _parsed(value: Any, field: str, what: str, place: str = "") -> list[Any]:
    """JSON text, or its parsed value, as a list; `place` is the field's path if `field` is not one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as fault:
            fix = 'write it as JSON, {"name": …} in double quotes'
            raise FieldFault(f"{field} is not {what}: {fault}", fix, place or field) from None
    return value if isinstance(value, list) else [value]


def _calls(calls: Any, field: str) -> list[dict[str, Any]]:
    """Calls as {"type": "function", "function": {"name", "arguments": object}}, with other keys kept."""
    parsed = []
    for index, call in enumerate(_parsed(calls, field, "a list of calls")):
        place = f"{field}[{index}]" if isinstance(calls, list) else field
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            fix = 'write it as {"name": …, "arguments": {…}}'
            raise FieldFault(f"{field}: call {index} has no function name", fix, place)
        arguments = function.get("arguments", function.get("parameters"))
        if arguments is None or arguments == "":
            arguments = {}
        if not isinstance(arguments, dict):
            # OpenAI's own format holds them as JSON text; chat templates want the object.
            (arguments,) = _parsed(arguments, f"{field}: call {index}'s arguments", "JSON", place)[:1] or [None]
        if not isinstance(arguments, dict):
            what = f"{field}: call {index}'s arguments are {describe_value(arguments)}, not an object"
            raise FieldFault(what, "give each argument by name", place)
        rest = {key: value for key, value in call.items() if function is not call and value is not None}
        parsed.append({**rest, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return parsed


def tools(value: Any, field: str = "tools") -> list[dict[str, Any]]:
    """Declared tools, from a list or its JSON, as {"type": "function", "function": {"name", …}}; [] for none.

    Raises:
        FieldFault: not JSON, or a tool without a name.
    """
    if value is None or value == "":
        return []
    declared = []
    for index, tool in enumerate(_parsed(value, field, "a JSON list of tools")):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            fix = 'write it as {"name": …, "parameters": {…}}'
            raise FieldFault(f"{field}[{index}] has no function name", fix, f"{field}[{index}]")
        declared.append(tool if function is not tool else {"type": "function", "function": tool})
    return declared
