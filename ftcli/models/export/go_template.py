"""Renders the part of Go's template language that Ollama's chat templates are written in.

Text and actions `{{ … }}`, whose `-` takes white space away; `if`, `else if`, `else`, `range` with or without two
variables, `with`, `end`; fields `.Content` and `$.System`, variables, strings, numbers, `:=`, and the functions that
those templates use. What else Go knows is refused, so that a template is never rendered otherwise than Ollama does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Node = tuple[Any, ...]
Scope = dict[str, Any]

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.S)
_WORD = re.compile(r"\s*(:=|\(|\)|,|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|-?\d+|\$?[\w.]*[\w.]|\$)")
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda first, *others: any(first == each for each in others),
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "not": lambda value: not value,
    "len": len,
    "slice": lambda values, start, end=None: values[start:end],
    "index": lambda values, at: values[at],
}


class Unsupported(ValueError):
    """The template uses what is not rendered here, or is none."""


def render(template: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """What Ollama sends to the model for a conversation, but for the tokens that it adds itself.

    Ollama joins turns of one role that follow each other, and gives the system's turns beside the others as `.System`.

    Raises:
        Unsupported: the template is not of the part of the language that is rendered here.
    """
    turns = list[dict[str, str]]()
    for each in messages:
        if turns and turns[-1]["Role"] == each["role"]:
            turns[-1]["Content"] += "\n\n" + each["content"]
        else:
            turns.append({"Role": each["role"], "Content": each["content"]})
    system = "\n\n".join(turn["Content"] for turn in turns if turn["Role"] == "system")
    whole = {"Messages": turns, "System": system, "Tools": [], "Response": ""}
    nodes, rest = _parsed(_pieces(template), ())
    if rest:
        raise Unsupported("an end without a beginning")
    return _rendered(nodes, whole, {"$": whole})


def _pieces(template: str) -> list[tuple[str, str]]:
    """Text and actions in turn, with the white space gone that actions take away."""
    found, at, trims = list[tuple[str, str]](), 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trims else text
        found.append(("text", text.rstrip() if match[1] else text))
        action = match[2].strip()
        if not action.startswith("/*"):
            found.append(("action", action))
        at, trims = match.end(), bool(match[3])
    last = template[at:]
    return [*found, ("text", last.lstrip() if trims else last)]


def _parsed(pieces: list[tuple[str, str]], ends: tuple[str, ...]) -> tuple[list[Node], list[tuple[str, str]]]:
    """The nodes up to an action that begins with one of `ends`, and the pieces from there on."""
    nodes = list[Node]()
    while pieces:
        (kind, text), *pieces = pieces
        word, _, rest = text.partition(" ") if kind == "action" else ("", "", "")
        if kind == "text":
            nodes.append(("text", text))
        elif word in ends:
            return nodes, [(kind, text), *pieces]
        elif word in ("if", "range", "with"):
            node, pieces = _block(word, rest, pieces)
            nodes.append(node)
        elif word in ("else", "end", "define", "template", "block", "break", "continue"):
            raise Unsupported(f"{{{{ {text} }}}} here")
        else:
            nodes.append(("value", _words(text)))
    if ends:
        raise Unsupported(f"no {{{{ end }}}} of {ends[0]}")
    return nodes, []


def _block(word: str, condition: str, pieces: list[tuple[str, str]]) -> tuple[Node, list[tuple[str, str]]]:
    body, pieces = _parsed(pieces, ("else", "end"))
    (_, closing), *pieces = pieces
    otherwise = list[Node]()
    if closing.startswith("else if "):
        inner, pieces = _block("if", closing.removeprefix("else if "), pieces)
        otherwise = [inner]
    elif closing == "else":
        otherwise, pieces = _parsed(pieces, ("end",))
        pieces = pieces[1:]
    elif closing != "end":
        raise Unsupported(f"{{{{ {closing} }}}}")
    return (word, condition, body, otherwise), pieces


def _words(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        match = _WORD.match(text, at)
        if match is None:
            raise Unsupported(f"{text[at:]!r} in {{{{ {text} }}}}")
        found.append(match[1])
        at = match.end()
    return found


def _rendered(nodes: Sequence[Node], dot: Any, scope: Scope) -> str:
    return "".join(_written(node, dot, scope) for node in nodes)


def _written(node: Node, dot: Any, scope: Scope) -> str:
    if node[0] == "text":
        return str(node[1])
    if node[0] == "value":
        words = node[1]
        if len(words) > 2 and words[1] == ":=":
            scope[words[0]] = _value(words[2:], dot, scope)
            return ""
        return str(_value(words, dot, scope))
    word, condition, body, otherwise = node
    if word == "range":
        return _ranged(condition, body, otherwise, dot, scope)
    value = _value(_words(condition), dot, scope)
    inner = value if word == "with" and value else dot
    return _rendered(body if value else otherwise, inner, dict(scope))


def _ranged(condition: str, body: Sequence[Node], otherwise: Sequence[Node], dot: Any, scope: Scope) -> str:
    names, _, listed = condition.rpartition(":=")
    values = _value(_words(listed), dot, scope)
    variables = [name.strip() for name in names.split(",") if name.strip()]
    said = ""
    for index, each in enumerate(values):
        given = dict(zip(variables, (index, each)[2 - len(variables) :] if variables else (), strict=True))
        said += _rendered(body, each, {**scope, **given})
    return said if values else _rendered(otherwise, dot, dict(scope))


def _value(words: list[str], dot: Any, scope: Scope) -> Any:
    """The value of a pipeline without pipes: one operand, or a function and its operands."""
    operands, rest = _operands(words, dot, scope)
    if rest:
        raise Unsupported(" ".join(words))
    return operands


def _operands(words: list[str], dot: Any, scope: Scope) -> tuple[Any, list[str]]:
    if not words:
        raise Unsupported("an action without a value")
    first, rest = words[0], words[1:]
    if first in _FUNCTIONS or first in ("and", "or"):
        given = []
        while rest and rest[0] != ")":
            one, rest = _operand(rest, dot, scope)
            given.append(one)
        return _called(first, given), rest
    return _operand(words, dot, scope)


def _operand(words: list[str], dot: Any, scope: Scope) -> tuple[Any, list[str]]:
    first, rest = words[0], words[1:]
    if first == "(":
        value, rest = _operands(rest, dot, scope)
        if not rest or rest[0] != ")":
            raise Unsupported("a ( without a )")
        return value, rest[1:]
    if first.startswith('"'):
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), first[1:-1]), rest
    if first.startswith("`"):
        return first[1:-1], rest
    if re.fullmatch(r"-?\d+", first):
        return int(first), rest
    if first in ("true", "false"):
        return first == "true", rest
    head, *fields = first.split(".")
    value = dot if head == "" else scope.get(head, Unsupported)
    if value is Unsupported:
        raise Unsupported(f"{first} is not known")
    for field in filter(None, fields):
        if not isinstance(value, Mapping) or field not in value:
            raise Unsupported(f"{first} is not known")
        value = value[field]
    return value, rest


def _called(name: str, given: list[Any]) -> Any:
    if name == "and":
        return next((each for each in given if not each), given[-1])
    if name == "or":
        return next((each for each in given if each), given[-1])
    return _FUNCTIONS[name](*given)
