"""A recipe that was brought from another tool, checked and planned: what ftcli refuses is taken out, and said."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.build.resolve import build
from ftcli.config.compose import Request, compose
from ftcli.config.conversion import Conversion, convert, rows
from ftcli.core.errors import FtcliError, Problem
from ftcli.plan.outlook import plan
from ftcli.settings.ownership import ALLOW_PATH

_ROUNDS = 12
"""A refused setting may hide another; each round takes out all that are known."""
_KEPT = (*rows.ROWS, "data.mix", *rows.MODELS)
"""Without them it would be another training."""
_LINE = re.compile(r":(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A recipe with its account, and what still stands in its way."""

    conversion: Conversion
    problems: tuple[Problem, ...]
    """What `ftcli check` and `ftcli plan` say of it."""


def imported(path: str | Path, tool: str | None = None, beside: Path | None = None) -> Imported:
    """Convert a configuration of another tool, and take out what ftcli refuses.

    Args:
        beside: the folder that the recipe is for; None is the working directory.

    Raises:
        ConfigError: it is no configuration of a tool that is known, or no training.
    """
    found = convert(path, tool)
    with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
        for _ in range(_ROUNDS):
            problems = _problems(found, Path(folder))
            # Named before the first is taken out, since that moves the lines.
            named = [(_setting(found, problem), problem) for problem in problems]
            taken = [_refused(found, setting, problem) for setting, problem in named]
            if True not in taken:
                break
        shown = tuple(_renamed(found, each, f"{folder}/") for each in problems)
    outside = found.outside(beside if beside is not None else Path.cwd())
    if outside and not shown:
        what = f"names files outside the recipe's folder: {', '.join(outside[:3])}"
        shown = (Problem("the recipe", what, f"add {ALLOW_PATH}, or copy them beside the recipe"),)
    return Imported(conversion=found, problems=shown)


def _problems(found: Conversion, folder: Path) -> Sequence[Problem]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(found.recipe_at(folder), encoding="utf-8")
    try:
        request = Request(overrides=(f"recipe={recipe}",), grants=frozenset({ALLOW_PATH}))
        plan(build(compose(request)))
    except FtcliError as error:
        return error.problems
    return ()


def _refused(found: Conversion, setting: str | None, problem: Problem) -> bool:
    """Take the setting that a problem names out of the recipe; False if it is to stay, or none is named."""
    if setting is None or setting in _KEPT:
        return False
    return found.refuse(setting, f"ftcli check: {problem.what}")


def _setting(found: Conversion, problem: Problem) -> str | None:
    line = _LINE.search(problem.where)
    if line is not None:
        return found.setting_at(int(line[1]))
    named = re.match(r"(\w+(?:\.\w+)?)", problem.where)
    return named[1] if named and named[1] in found.draft.settings else None


def _renamed(found: Conversion, problem: Problem, folder: str) -> Problem:
    """The problem at its setting, since the file that was checked is gone."""
    setting = _setting(found, problem)
    what, fix = problem.what.replace(folder, ""), problem.fix.replace(folder, "")
    return Problem(setting or "the recipe", what, fix)
