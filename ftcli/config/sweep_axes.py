"""What a sweep varies: settings with several values, typed in the grammar of Hydra's overrides.

A list (`seed=1,2`), `choice(a,b)`, `range(1,5)` and `glob(smollm-*)` are values; `interval(1e-5,1e-3)`, also as
`tag(log,interval(…))` and `int(interval(…))`, is a range, from which only a search can draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ftcli.config.overrides import parse
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.groups import is_path_key


@dataclass(frozen=True)
class Values:
    """A setting, or a group, with the values that it takes in turn."""

    key: str
    values: tuple[str, ...]
    """Each as it could have been typed behind the `=`."""


@dataclass(frozen=True)
class Range:
    """A setting with the numbers between which a search draws, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    """Whether numbers are drawn evenly by their size: as many from 1e-5 to 1e-4 as from 1e-4 to 1e-3."""
    step: float | None = None
    """The distance of the numbers; None of whole numbers is 1, of others none at all."""

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


Axis = Values | Range


def axes(texts: Sequence[str]) -> list[str | Axis]:
    """The arguments of a sweep in their order: those that vary as axes, the others as they are.

    Raises:
        ConfigError: an override with invalid syntax, or a sweep that lists nothing.
    """
    return [_axis(text) for text in texts]


def expand(texts: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep: every combination of the listed values, as lists of plain overrides.

    Raises:
        ConfigError: an override with invalid syntax, or a sweep that lists nothing.
    """
    return [list(job) for job in product(*(listed(each) for each in axes(texts)))]


def listed(argument: str | Axis) -> list[str]:
    """The overrides that one argument stands for in a sweep over every combination.

    Raises:
        ConfigError: it is a range, which has no end of values.
    """
    if isinstance(argument, str):
        return [argument]
    if isinstance(argument, Range):
        text = f"{argument.key}=interval({argument.low:g},{argument.high:g})"
        fix = "list them: a,b,c or choice(a,b) or range(1,5); ftcli sweep draws from intervals"
        raise ConfigError(Problem(text, "is a sweep without values", fix))
    return [f"{argument.key}={value}" for value in argument.values]


def _axis(text: str) -> str | Axis:
    """One argument of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep, Transformer
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, RecursionError):
        return parse(text).text  # a literal path may lie outside the grammar
    if not override.is_sweep_override():
        return text
    key, value, values = override.get_key_element(), override.value(), list[str]()
    if isinstance(value, IntervalSweep):
        return Range(key, _number(value.start), _number(value.end), "log" in value.tags)
    if isinstance(value, RangeSweep) and value.step == 0:
        raise ConfigError(Problem(text, "is a range whose step is 0", "for example range(1,9,2)"))
    if isinstance(value, Glob):
        values = value.filter(list(assets.choices(str(override.key_or_group))))
    elif override.is_discrete_sweep():
        values = [_one(key, item) for item in override.sweep_iterator(transformer=Transformer.encode)]
    if not values:
        raise ConfigError(Problem(text, "is a sweep without values", "list them: a,b,c or choice(a,b) or range(1,5)"))
    return Values(key, tuple(values))


def _one(key: str, item: Any) -> str:
    """One of several values; Hydra forgets the quotes of those inside choice(…)."""
    try:
        parse(f"{key}={item}")
    except ConfigError:
        return _in_grammar(item)
    return str(item)


def _number(bound: Any) -> float:
    """A bound of an interval: whole where it was written so, as `int(interval(1,8))` is."""
    return int(bound) if isinstance(bound, int) else float(bound)


def as_typed(key: str, value: Any) -> str:
    """A value of a file as it could have been typed behind `key=`.

    Raises:
        ConfigError: it cannot be: the grammar has no text for it.
    """
    text = _in_grammar(value)
    if isinstance(value, str) and (is_path_key(key) or _means(key, value, value)):
        text = value
    if not _means(key, text, value):
        raise ConfigError(Problem(f"{key}={text}", f"{value!r} cannot be swept over", "write a number or a word"))
    return text


def _means(key: str, text: str, value: Any) -> bool:
    try:
        found = parse(f"{key}={text}").value
    except ConfigError:
        return False
    return bool(found == value) and type(found) is type(value)


def _in_grammar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_in_grammar, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_in_grammar(own)}' for key, own in value.items())}}}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return f"'{escaped}'"
    return repr(value)
