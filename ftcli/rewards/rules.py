"""Rule-based rewards: named, checked before anything is loaded, and shared by every method that samples.

A reward is a function of one answer, between 0 and 1. Its keyword arguments are its settings; the name of a setting
that names a column of the rows ends in `column`. To add a reward, write the function and its entry in REWARDS.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.core.declarations import added
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.core.untrusted.bounded_pattern import bounded


@dataclass(frozen=True)
class Answered:
    """One sampled answer."""

    text: str
    """Its final part by the chat template's own structure: without reasoning, channel names and special tokens, and
    without white space at the ends."""
    row: Mapping[str, Any]
    """The columns of its row."""
    num_tokens: int
    """Tokens of the answer, including its end token."""
    ended: bool
    """Whether it closes with an end token, rather than truncated at the length limit."""
    whole: str = ""
    """The answer with its reasoning, from the tag on that its prompt has opened; without special tokens."""


def exact_answer(answered: Answered, *, column: str = "answer", ignore_case: bool = False) -> float:
    """1 if the answer equals the row's column, with runs of white space as one space; else 0."""
    ours, theirs = _plain(answered.text, ignore_case), _plain(answered.row[column], ignore_case)
    return float(ours == theirs)


def holds_answer(answered: Answered, *, column: str = "answer", ignore_case: bool = True) -> float:
    """1 if the answer contains the text of the row's column as whole words; else 0."""
    ours, theirs = _plain(answered.text, ignore_case), _plain(answered.row[column], ignore_case)
    return float(bool(re.search(rf"(?<!\w){re.escape(theirs)}(?!\w)", ours)))


def number(answered: Answered, *, column: str = "answer", tolerance: float = 1e-6) -> float:
    """1 if the last number in the answer equals that in the row's column (`#### 42`), within a tolerance; else 0."""
    ours, theirs = _last_number(answered.text), _last_number(str(answered.row[column]))
    return float(ours is not None and theirs is not None and math.isclose(ours, theirs, abs_tol=tolerance))


def regex(answered: Answered, *, pattern: str) -> float:
    """1 if the pattern matches anywhere in the answer; else 0."""
    return float(bounded(pattern).search(answered.text) is not None)


def tags(answered: Answered, *, names: list[str]) -> float:
    """1 if the answer is these tags, in order, and nothing else, `<think>…</think><answer>…</answer>`; else 0.

    The tags may be those of the whole answer or of its final part alone."""
    parts = r"\s*".join(rf"<{re.escape(name)}>.*?</{re.escape(name)}>" for name in names)
    form = re.compile(rf"\s*{parts}\s*", re.DOTALL)
    return float(any(form.fullmatch(text) for text in (answered.text, answered.whole)))


def length(answered: Answered, *, least: int = 0, most: int = 2**31) -> float:
    """1 if the answer has least to most tokens; else lower by the share missing or in excess, down to 0."""
    tokens = answered.num_tokens
    off = (least - tokens) / max(least, 1) if tokens < least else (tokens - most) / most if tokens > most else 0.0
    return max(0.0, 1.0 - off)


def ended(answered: Answered) -> float:
    """1 if the answer ends by itself; 0 if it was truncated at the length limit."""
    return float(answered.ended)


def parses_as_json(answered: Answered) -> float:
    """1 if the answer is JSON; else 0."""
    try:
        json.loads(answered.text)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


REWARDS: Mapping[str, Callable[..., float]] = {
    function.__name__: function
    for function in (
        *(exact_answer, holds_answer, number, regex, tags, length, ended, parses_as_json),
        *added("ftcli.rewards", "REWARD").values(),
    )
}
"""Every named reward."""


def _plain(text: Any, ignore_case: bool) -> str:
    plain = " ".join(str(text).split())
    return plain.casefold() if ignore_case else plain


def _last_number(text: str) -> float | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


# --- rewards in a configuration ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightedReward:
    """One reward of `method.rewards`."""

    name: str
    weight: float
    settings: Mapping[str, Any]

    def __call__(self, answered: Answered) -> float:
        """The reward of an answer, before its weight."""
        return REWARDS[self.name](answered, **self.settings)

    def columns(self) -> list[str]:
        """The columns that it reads."""
        return [str(value) for name, value in self._all().items() if name.endswith("column")]

    def _all(self) -> dict[str, Any]:
        parameters = inspect.signature(REWARDS[self.name]).parameters.values()
        given = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        return {**given, **self.settings}


def weighted_rewards(rewards: Mapping[str, Any] | None) -> list[WeightedReward]:
    """The rewards of `method.rewards`: a name with a weight, or with its settings and a `weight` among them."""
    weighted = []
    for name, value in (rewards or {}).items():
        settings = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weighted.append(WeightedReward(name, float(settings.pop("weight", 1.0)), settings))
    return weighted


def problems(rewards: Any) -> Iterator[Problem]:
    """Every problem in `method.rewards`."""
    key = "method.rewards"
    if not isinstance(rewards, Mapping):
        yield Problem(key, f"{key} is {rewards!r}, not a mapping of names to weights", f"{key}.exact_answer=1")
        return
    for name, value in rewards.items():
        place = f"{key}.{name}"
        if name not in REWARDS:
            yield Problem(place, f"{name} is not a reward", suggest(str(name), REWARDS, f"{key}."))
            continue
        settings = value if isinstance(value, Mapping) else {"weight": value}
        if not _is_number(settings.get("weight", 1.0)):
            yield Problem(place, f"the weight of {name} is {settings['weight']!r}, not a number", f"{place}=1")
        yield from _settings_problems(str(name), settings, place)


def _settings_problems(name: str, settings: Mapping[str, Any], place: str) -> Iterator[Problem]:
    parameters = {
        p.name: p
        for p in inspect.signature(REWARDS[name]).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for setting, value in settings.items():
        if setting == "weight":
            continue
        if setting not in parameters:
            fix = suggest(setting, [*parameters, "weight"], f"{place}.")
            yield Problem(f"{place}.{setting}", f"{name} has no setting {setting}", fix)
        elif not _fits(value, kind := annotation_of(parameters[setting])):
            what = f"{place}.{setting} is {value!r}, not of type {kind}"
            yield Problem(f"{place}.{setting}", what, f"give {name} a {kind}")
    for missing in (n for n, p in parameters.items() if p.default is p.empty and n not in settings):
        yield Problem(place, f"{name} needs {missing}", f"{place}.{missing}=…")
    if name == "regex" and isinstance(settings.get("pattern"), str):
        try:
            bounded(settings["pattern"])
        except ValueError as error:
            yield Problem(f"{place}.pattern", str(error), "fix it, or quote it in YAML")


def annotation_of(parameter: inspect.Parameter) -> str:
    """The type of a setting as its source says it, whether or not its module keeps annotations as text."""
    written = parameter.annotation
    return written.__name__ if isinstance(written, type) and not hasattr(written, "__args__") else str(written)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fits(value: Any, annotation: str) -> bool:
    if annotation == "list[str]":
        return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    checks: dict[str, Callable[[Any], bool]] = {
        "str": lambda v: isinstance(v, str),
        "bool": lambda v: isinstance(v, bool),
        "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "float": _is_number,
    }
    return checks[annotation](value)
