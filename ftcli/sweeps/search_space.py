"""What a search varies: the space in a recipe, under what was typed.

    sweep:
      space:
        peft.r: [8, 16, 32]
        train.learning_rate: {low: 1e-5, high: 1e-3, log: true}

What stands in a recipe becomes an override of each job, so it is held to what a recipe may set, and not to what a user
may type: no paths, and nothing that needs a flag which this command line does not give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ftcli.config.overrides import parse
from ftcli.config.sweep_axes import Axis, Range, Values, as_typed
from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.groups import GROUPS, is_path_key

_KEY = re.compile(r"[a-z]\w*(\.[A-Za-z_]\w*)*")
_OF_STAGE = re.compile(r"stages\.\w+\.")
_RANGE = ("low", "high", "log", "step")
_FORMS = "[8, 16, 32], or {low: 1e-5, high: 1e-3, log: true}"


def space_of(written: Any, where: Callable[[str], str]) -> list[Axis]:
    """The axes below `sweep.space` of a recipe.

    Raises:
        ConfigError: every key and value that is none.
    """
    if not isinstance(written, Mapping) or not written:
        raise ConfigError(Problem(where(""), "sweep.space holds nothing to search", f"write `KEY: {_FORMS}` lines"))
    found: list[Axis] = []
    problems: list[Problem] = []
    for key, value in written.items():
        try:
            found.append(_axis(str(key), value, where(str(key))))
        except ConfigError as error:
            problems += [Problem(where(str(key)), each.what, each.fix) for each in error.problems]
    if problems:
        raise ConfigError(*problems)
    return found


def _axis(key: str, value: Any, where: str) -> Axis:
    of_stage = _OF_STAGE.match(key)
    setting = key[of_stage.end() :] if of_stage else key
    known = (*GROUPS, "make") if of_stage else GROUPS
    if not _KEY.fullmatch(key) or (setting != "seed" and setting.partition(".")[0] not in known):
        fix = f"a setting (train.learning_rate), a group ({', '.join(GROUPS)}) or seed; of a stage stages.NAME.…"
        raise ConfigError(Problem(where, f"{key} is nothing that a search varies", fix))
    if is_path_key(key):
        fix = f"vary it on the command line, {key}=a,b, or vary a choice of its group"
        raise ConfigError(Problem(where, f"{key} is a path, which a recipe may not vary", fix))
    if isinstance(value, list) and value:
        return Values(key, tuple(as_typed(key, each) for each in value))
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= {*_RANGE}:
        raise ConfigError(Problem(where, f"{key} is neither a list of values nor a range", _FORMS))
    return Range(key, value["low"], value["high"], value.get("log", False), value.get("step"))


def merged(recipe: Iterable[Axis], typed: Iterable[Axis], fixed: Iterable[str]) -> list[Axis]:
    """The axes of a search: those typed replace those of the recipe, and so does a single value that was typed.

    Args:
        fixed: the overrides that do not vary.

    Raises:
        ConfigError: nothing is left to search, a setting varies twice, or a range is none.
    """
    held = {each.name for each in map(parse, fixed) if not each.delete}
    by_key = {each.key: each for each in recipe if each.key not in held}
    seen: set[str] = set()
    problems = []
    for axis in typed:
        if axis.key in seen or axis.key in held:
            problems.append(Problem(axis.key, "is given twice", "give one value, or one list of values"))
        seen.add(axis.key)
        by_key[axis.key] = axis
    for axis in by_key.values():
        problems += [Problem(axis.key, what, fix) for what, fix in _faults(axis)]
    if problems:
        raise ConfigError(*problems)
    if not by_key:
        fix = "give a range, 'train.learning_rate=tag(log,interval(1e-5,1e-3))', or sweep.space in a recipe"
        raise ConfigError(Problem("ftcli sweep", "there is nothing to search", fix))
    return [*by_key.values()]


def _faults(axis: Axis) -> Iterable[tuple[str, str]]:
    """What is wrong with an axis: each as what, and its remedy."""
    if isinstance(axis, Values):
        if len(set(axis.values)) < len(axis.values):
            yield "lists a value twice", "list each once"
        return
    numbers = [axis.low, axis.high, *([axis.step] if axis.step is not None else [])]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        yield "is a range of something else than numbers", "for example {low: 1, high: 8}"
    elif not all(abs(number) < float("inf") for number in numbers):
        yield "is a range without an end", "give the lowest and the highest number"
    elif not axis.low < axis.high:
        yield f"is a range from {axis.low:g} to {axis.high:g}, which holds nothing", "low first, then high"
    elif not isinstance(axis.log, bool):
        yield f"has log: {axis.log!r}", "true or false"
    elif axis.log and axis.low <= 0:
        yield f"is drawn by size, and {axis.low:g} has none", "give a low above 0"
    elif axis.log and axis.step is not None:
        yield "has both log and step, which exclude each other", "leave one of them out"
    elif axis.step is not None and axis.step <= 0:
        yield f"has the step {axis.step:g}", "a number above 0"


def samples(axes: Iterable[Axis]) -> Iterable[Mapping[str, str]]:
    """Points of a space at which each value, and each end of a range, occurs: what is checked before a search."""
    columns = {axis.key: axis.values if isinstance(axis, Values) else _ends(axis) for axis in axes}
    longest = max(map(len, columns.values()))
    for place in range(longest):
        yield {key: values[min(place, len(values) - 1)] for key, values in columns.items()}


def _ends(axis: Range) -> tuple[str, ...]:
    return (repr(axis.low), repr(axis.high))
