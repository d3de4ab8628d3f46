"""What a plugin's functions give, held against what their declarations say of it: a wrong value is the plugin's fault.

An error that a plugin raises names its line. A wrong value is found later, in ftcli's own code, and would be called a
bug of ftcli; so the functions of a plugin's declarations are replaced by ones that look at what they give.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ftcli.core.errors import ConfigError, Problem

DECLARED = ("METHOD", "PIPELINE", "METHODS", "PROFILE", "FORMAT", "TRACKER")
"""The names under which modules declare what has functions; REWARD is one itself."""
Fault = Callable[[str, str], Problem]
"""The problem of a plugin at a place."""


def hold(module: ModuleType, owns: Callable[[str], bool], fault: Fault) -> None:
    """Replace the functions of a module's declarations, once.

    Args:
        owns: whether a file is the plugin's; functions that its declarations have of ftcli's stay as they are.
    """
    for name in DECLARED:
        found = getattr(module, name, None)
        for each in found if isinstance(found, tuple | list) else [found]:
            for field, function, gives in functions_of(each):
                if owns(_file(function)) and not hasattr(function, "held"):
                    object.__setattr__(each, field, _held(field, function, functools.partial(_fits, hint=gives),
                                                          _named(gives), fault))  # fmt: skip
    reward = getattr(module, "REWARD", None)
    if isinstance(reward, FunctionType) and owns(_file(reward)) and not hasattr(reward, "held"):
        module.REWARD = _held(reward.__name__, reward, _is_reward, "number from 0 to 1", fault)  # type: ignore[attr-defined]


def place_of(function: Any) -> str:
    """The file and line at which a function begins."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def functions_of(declared: Any) -> Iterator[tuple[str, FunctionType, Any]]:
    """The fields of a declaration that hold functions, each with what it is to give."""
    if not is_dataclass(declared) or isinstance(declared, type):
        return
    hints = get_type_hints(type(declared))
    for field in fields(declared):
        function = getattr(declared, field.name)
        calls = [each for each in (hints[field.name], *get_args(hints[field.name])) if get_origin(each) is _CALLABLE]
        if calls and isinstance(function, FunctionType):
            yield field.name, function, get_args(calls[0])[-1]


_CALLABLE = get_origin(Callable[[], None])


def _file(function: FunctionType) -> str:
    return str(inspect.unwrap(function).__code__.co_filename)


def _held(
    name: str, function: FunctionType, fits: Callable[[Any], bool], wanted: str, fault: Fault
) -> Callable[..., Any]:
    """The function, which raises a ConfigError where what it gives does not fit."""

    @functools.wraps(function)
    def called(*given: Any, **settings: Any) -> Any:
        found = function(*given, **settings)
        if not fits(found):
            raise ConfigError(fault(place_of(function), f"{name} gives {found!r:.80}, which is no {wanted}"))
        return found

    called.held = True  # type: ignore[attr-defined]
    return called


def _is_reward(value: Any) -> bool:
    """Whether a value is a reward; one that is not finite is reported with the answer that it was given for."""
    return isinstance(value, numbers.Real) and not (float(value) < 0 or float(value) > 1)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is UnionType or str(origin) == "typing.Union":
        return any(_fits(value, each) for each in inner)
    if origin is list:  # one that is made while it is read will do
        return isinstance(value, Iterator) or (
            isinstance(value, list | tuple) and all(_fits(each, inner[0]) for each in value)
        )
    if origin is tuple:
        wanted = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is not None:
        held = isinstance(value, origin)
        return held and (not isinstance(value, Mapping) or all(_fits(each, inner[1]) for each in value.values()))
    if hint in (int, float):
        return isinstance(value, numbers.Integral if hint is int else numbers.Real)
    return isinstance(value, NoneType if hint is None else hint)


def _named(hint: Any) -> str:
    """A type as a message names it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType or str(origin) == "typing.Union":
        return " or ".join(map(_named, inner))
    if origin in (list, tuple):
        return f"{origin.__name__} of {' and '.join(_named(each) for each in inner if each is not ...)}"
    name = getattr(origin or hint, "__name__", str(hint))
    return {"NoneType": "None"}.get(name, name)
