"""The contracts of data formats and rewards: functions, each with an example of what it makes of what."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.contracts import common_contracts
from ftcli.core.errors import DataError, Problem
from ftcli.data.files.reader import Row
from ftcli.data.formats.registry import DATASET_TYPES, FORMATS, Format, convert, recognise
from ftcli.rewards.rules import REWARDS, Answered, WeightedReward, annotation_of
from ftcli.rewards.rules import problems as reward_settings_problems

ANNOTATIONS = ("str", "bool", "int", "float", "list[str]")
"""The types that a reward's setting may have."""


def format_problems(name: str, form: object, example: object, where: str) -> Iterator[Problem]:
    """What is wrong with a format.

    Args:
        example: a row, and what it is converted to.
    """
    if not isinstance(form, Format):
        yield Problem(where, f"FORMAT is {type(form).__name__}, and no Format", "FORMAT = Format(…)")
        return
    yield from common_contracts.name_problems("format", name, form.name, where)
    yield from common_contracts.one_of("kind", [form.kind], DATASET_TYPES, where)
    if not form.doc.strip():
        yield Problem(
            where, f"the format {form.name} has no text on what it reads", "doc='An examination and its answer.'"
        )
    if not form.needs:
        yield Problem(where, f"the format {form.name} needs no column, so every row would be one", "needs=(Need(…),)")
        return
    if not (isinstance(example, tuple) and len(example) == 2 and isinstance(example[0], Mapping)):
        yield Problem(where, "has no example", "EXAMPLE = (a row, the row as a row of its kind)")
        return
    row, expected = example
    found = recognise(row)
    if found is not FORMATS.get(form.name) or found is not form:
        taken = f"is taken for {found.name}" if found else f"is not recognised: {'; '.join(form.faults(row))}"
        yield Problem(where, f"its example {taken}", "give needs that its rows alone have")
    yield from _conversion_problems(form, row, expected, where)


def _conversion_problems(form: Format, row: Mapping[str, Any], expected: Any, where: str) -> Iterator[Problem]:
    """The row becomes what is expected of it, stays as it was, and what it became is read as the same again."""
    given, file = copy.deepcopy(dict(row)), where.rpartition(":")[0]
    try:
        made = convert(form, Row(file, 1, given))
        again = recognise(made)
        same = again is not None and again.kind == form.kind and convert(again, Row(file, 1, dict(made))) == made
    except DataError as error:
        yield from error.problems
        return
    if given != row:
        yield Problem(where, "its converter changes the row that it reads", "copy what you change")
    if made != expected:
        what = f"its example becomes {made!r}, and not {expected!r}"
        yield Problem(where, what, "mend the converter, or the example")
    elif not same:
        yield Problem(
            where, f"its example becomes {made!r}, which is no row of the kind {form.kind}", "mend the converter"
        )


def reward_problems(name: str, reward: object, example: object, where: str) -> Iterator[Problem]:
    """What is wrong with a reward.

    Args:
        example: its settings, an answer, the row of it, and the reward.
    """
    if not inspect.isfunction(reward):
        yield Problem(where, f"REWARD is {type(reward).__name__}, and no function", "REWARD = the function")
        return
    yield from common_contracts.name_problems("reward", name, reward.__name__, where)
    yield from common_contracts.summary_problems("reward, its docstring,", (reward.__doc__ or "").split("\n")[0], where)
    broken = [*_signature_problems(reward, where)]
    yield from broken
    if not (isinstance(example, tuple) and len(example) == 4):
        yield Problem(where, "has no example", "EXAMPLE = (settings, answer, row, the reward that it gives)")
        return
    settings, text, row, expected = example
    if broken or REWARDS.get(name) is not reward:
        return
    yield from reward_settings_problems({name: {**settings, "weight": 1.0}})
    given = WeightedReward(name, 1.0, settings)(Answered(text, row, len(text.split()), True, text))
    yield from _value_problems(given, expected, where)


def _signature_problems(reward: Any, where: str) -> Iterator[Problem]:
    first, *rest = [*inspect.signature(reward).parameters.values()] or [_NOTHING]
    if first.kind not in (first.POSITIONAL_OR_KEYWORD, first.POSITIONAL_ONLY):
        yield Problem(where, "takes no answer", "def reward(answered: Answered, *, setting: int = 1) -> float")
    for each in rest:
        if each.kind is not each.KEYWORD_ONLY:
            yield Problem(where, f"its setting {each.name} is not keyword-only", "put it behind a `*`")
        elif annotation_of(each) not in ANNOTATIONS:
            fix = f"annotate it with one of {', '.join(ANNOTATIONS)}"
            yield Problem(where, f"its setting {each.name} has the type {annotation_of(each)}", fix)


_NOTHING = inspect.Parameter("nothing", inspect.Parameter.KEYWORD_ONLY)


def _value_problems(given: Any, expected: Any, where: str) -> Iterator[Problem]:
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given <= 1:
        yield Problem(where, f"gives its example {given!r}, which is no number from 0 to 1", "return a float")
    elif given != expected:
        yield Problem(where, f"gives its example {given}, and not {expected}", "mend the reward, or the example")
