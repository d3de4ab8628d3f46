"""How a sweep runs its jobs, and what a search looks for: `sweep.NAME=VALUE`, or below `sweep:` in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from ftcli.config.overrides import Override
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest

SPACE = "space"
"""Below `sweep:` in a recipe: the settings that are searched."""
MOST_JOBS = 1000
"""At once, and trials of a search: a stranger's recipe starts no more processes than this machine would bear."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Group `sweep`: how its jobs run, and how a search chooses them."""

    jobs: int | None = None
    """Jobs at once; null is one a GPU where each job takes a single GPU, else one after the other."""
    trials: int = 20
    """Jobs that a search starts, failed and pruned ones included."""
    measure: Literal["eval_loss", "score"] = "eval_loss"
    """What a search looks for: the lowest held-out loss, or the highest held-out score."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How a search draws: tpe learns from the jobs before (Bergstra et al. 2011), random does not."""
    pruner: Literal["median", "halving", "none"] | None = None
    """When a search stops a job early, by the held-out loss of its evaluations: median where it is worse than half of
    the jobs were at that step, halving by successive halving (arXiv:1810.05934), none never. null is median where
    eval_loss is the measure, else none."""
    startup_trials: int = 5
    """Jobs of a search that are drawn at random, and not pruned, before it learns from them."""
    seed: int = 0
    """Draws the values of a search; a search that is resumed draws those that it would have drawn."""

    @property
    def prunes_by(self) -> str:
        """The pruner, decided."""
        return self.pruner or ("median" if self.measure == "eval_loss" else "none")


_HINTS = get_type_hints(SweepSettings)
NAMES = tuple(field.name for field in fields(SweepSettings))
OF_SEARCH = tuple(name for name in NAMES if name != "jobs")
"""The settings that only a search reads."""
LEAST: Mapping[str, int] = {"jobs": 1, "trials": 1, "startup_trials": 1, "seed": 0}


def read_settings(
    written: Mapping[str, Any], where: Callable[[str], str], typed: Sequence[Override], *, search: bool
) -> SweepSettings:
    """The settings of a recipe, under those that were typed.

    Args:
        written: what stands below `sweep:` in the recipe.
        where: the place of a setting there, by name.
        search: whether this is a search, which alone reads the settings of one.

    Raises:
        ConfigError: every name or value that is wrong, or that nothing would read.
    """
    found = {str(name): (value, where(str(name))) for name, value in written.items() if name != SPACE}
    found |= {".".join(each.key[1:]): (each.value, each.text) for each in typed}
    problems = [problem for name, (value, place) in found.items() if (problem := _problem(name, value, place, search))]
    if problems:
        raise ConfigError(*problems)
    settings = SweepSettings(**{name: value for name, (value, _) in found.items()})
    if settings.measure == "score" and settings.prunes_by != "none":
        what = "prunes by the held-out loss, and sweep.measure=score looks for something else"
        raise ConfigError(Problem(found["pruner"][1], what, "sweep.pruner=none, or sweep.measure=eval_loss"))
    if "startup_trials" in found and settings.sampler == "random" and settings.prunes_by == "none":
        what = "has no effect: nothing is learnt from these trials"
        raise ConfigError(Problem(found["startup_trials"][1], what, "leave it out, or choose sweep.sampler=tpe"))
    return settings


def _problem(name: str, value: Any, where: str, search: bool) -> Problem | None:
    """What is wrong with one setting."""
    if name not in NAMES:
        if name == SPACE or name.startswith(f"{SPACE}."):
            return Problem(where, "is written in a recipe", "on the command line: KEY=interval(LOW,HIGH), or KEY=a,b")
        return Problem(where, f"sweep.{name} is not a setting", suggest(name, NAMES, "sweep."))
    if name in OF_SEARCH and not search:
        return Problem(where, "is read only by ftcli sweep, which searches; -m runs every combination", "leave it out")
    words, (low, high), optional = allowed(name)
    if value is None and optional:
        return None
    if words:
        known = isinstance(value, str) and value in words
        fix = suggest(str(value), words, f"sweep.{name}=")
    else:
        known = type(value) is int and low <= value <= high
        fix = f"a whole number from {low} to {high}"
    return None if known else Problem(where, f"sweep.{name} is {value!r}", fix)


def allowed(name: str) -> tuple[tuple[str, ...], tuple[int, int], bool]:
    """What a setting takes: its words, or the bounds of its number, and whether null."""
    hint = _HINTS[name]
    optional = type(None) in get_args(hint)
    if name in LEAST:
        return (), (LEAST[name], 2**32 - 1 if name == "seed" else MOST_JOBS), optional
    literals = [word for part in (hint, *get_args(hint)) for word in get_args(part)]
    return tuple(dict.fromkeys(word for word in literals if isinstance(word, str))), (0, 0), optional
