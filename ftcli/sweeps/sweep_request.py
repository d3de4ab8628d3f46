"""The words of a sweep → what varies, what is the same in all jobs, and how they run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ftcli.config import recipe_file
from ftcli.config.compose import Request
from ftcli.config.overrides import Override, parse
from ftcli.config.sweep_axes import Axis, Values, axes, listed
from ftcli.core import hardware
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.search_space import merged, space_of
from ftcli.sweeps.sweep_settings import SPACE, SweepSettings, read_settings

_DEFAULT_NAME = "sweep"


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What a sweep was requested to do."""

    request: Request
    """Of its jobs: the overrides that none of them varies, the grants, the folders of groups."""
    arguments: Sequence[str | Axis]
    """The overrides as they were typed, those that vary as axes."""
    space: Sequence[Axis]
    """What a search varies."""
    settings: SweepSettings
    recipe: str | None
    """The digest of the recipe."""
    folder: Path
    by_recipe: bool
    """Whether the recipe says what varies: what needs a flag then needs it on this command line."""

    def combinations(self) -> Iterator[tuple[dict[str, str], list[str]]]:
        """The jobs of a sweep over every combination: what varies, and all overrides."""
        columns = [listed(each) for each in self.arguments]
        varying = [not isinstance(each, str) for each in self.arguments]
        for words in product(*columns):
            varied = [word.partition("=") for word, varies in zip(words, varying, strict=True) if varies]
            yield {key: value for key, _, value in varied}, list(words)

    def words(self, values: Mapping[str, str]) -> list[str]:
        """The overrides of a search's job."""
        return [*self.request.overrides, *(f"{key}={value}" for key, value in values.items())]


def requested(words: Sequence[str], request: Request, *, search: bool) -> SweepRequest:
    """What the words of a sweep mean.

    Args:
        words: as typed.
        request: the grants and the folders of groups of this command line.

    Raises:
        ConfigError: every problem in the words, and in what a recipe says of a search.
    """
    arguments = axes(words)
    if varying := [each.key for each in arguments if not isinstance(each, str) and _is_own(each.key)]:
        what = "varies, and is the same for all jobs of a sweep"
        raise ConfigError(*(Problem(key, what, f"{key}=VALUE, once") for key in varying))
    if problems := [*_twice(arguments)]:
        raise ConfigError(*problems)
    typed = [parse(each) for each in arguments if isinstance(each, str)]
    own = [each for each in typed if each.key[0] == "sweep" and not each.delete]
    plain = [each.text for each in typed if each not in own and each.name != "run.dir"]
    recipe = _recipe(typed, request)
    written: Mapping[str, Any] = (recipe.sweep if recipe and search else None) or {}

    def where(name: str) -> str:
        assert recipe is not None
        return recipe.where(("sweep", name))

    settings = read_settings(written, where, own, search=search)
    space: list[Axis] = []
    if search:
        of_recipe = []
        if recipe is not None and SPACE in written:
            of_recipe = space_of(written[SPACE], lambda key: recipe.where(("sweep", SPACE, *filter(None, [key]))))
        space = merged(of_recipe, [each for each in arguments if not isinstance(each, str)], plain)
        plain += [recipe_file.WITHOUT_SWEEP] if recipe is not None and recipe.sweep is not None else []
    kept = [each for each in arguments if not isinstance(each, str) or each in plain]
    return SweepRequest(
        request=replace(request, overrides=tuple(plain)),
        arguments=kept,
        space=space,
        settings=settings,
        recipe=_digest(recipe),
        folder=_folder(typed, recipe),
        by_recipe=bool(written),
    )


def _twice(arguments: Sequence[str | Axis]) -> Iterator[Problem]:
    """Values that are listed twice, whose jobs would be the same."""
    for axis in (each for each in arguments if isinstance(each, Values)):
        for value in dict.fromkeys(each for each in axis.values if axis.values.count(each) > 1):
            yield Problem(f"{axis.key}={value}", "is listed twice, and its jobs would be the same", "list it once")


def _is_own(key: str) -> bool:
    return key in ("recipe", "run.dir", "run.name") or key.partition(".")[0] == "sweep"


def _recipe(typed: Sequence[Override], request: Request) -> recipe_file.Recipe | None:
    """The recipe that the words name."""
    for each in typed:
        if each.name == "recipe" and not each.delete:
            path = recipe_file.find(str(each.value), each.text)
            return recipe_file.read(path, allow_path="--allow-path" in request.grants)
    return None


def _digest(recipe: recipe_file.Recipe | None) -> str | None:
    if recipe is None:
        return None
    return hashlib.sha256(foreign_files.read_bytes(Path(recipe.document.file))).hexdigest()


def _folder(typed: Sequence[Override], recipe: recipe_file.Recipe | None) -> Path:
    """The folder of the sweep: `run.dir`, else runs/NAME/TIME."""
    run = {**((recipe.values.get("run") if recipe else None) or {})}
    run |= {each.key[1]: each.value for each in typed if each.key[0] == "run" and len(each.key) == 2}
    return Path(str(run["dir"])) if run.get("dir") else rundir.new_run_dir(str(run.get("name") or _DEFAULT_NAME))


def shared_words(runs: Mapping[str, RunSpec], seed: int, jobs: int) -> list[str]:
    """Overrides that a job gets so that its measure compares with that of the others, and leaves them room.

    Args:
        runs: the job's runs without them, each by the stage of a pipeline that it is, a single one by "".
        seed: the seed of the first job.
        jobs: how many run at once.
    """
    found = [
        f"stages.{stage}.data.split_seed={seed}" if stage else f"data.split_seed={seed}"
        for stage, spec in runs.items()
        if spec.data.eval_share and spec.data.split_seed is None
    ]
    spec = max(runs.values(), key=lambda each: each.launch.num_processes)
    if jobs > 1 and spec.launch.device == "cpu" and spec.hardware.num_threads is None:
        threads = max(1, hardware.num_cores() // (jobs * spec.launch.num_processes))
        found.append(f"hardware.num_threads={threads}")
    return found


def ungranted(flags: Collection[str], grants: frozenset[str], where: str) -> list[Problem]:
    """A problem for each flag that jobs need, since a file says what they are, and this command line does not give."""
    needed = sorted({*flags} - grants)
    what = "says what the jobs are, so what it needs a flag for is granted on the command line alone"
    return [Problem(where, what, f"add {flag}") for flag in needed]


def checked(points: Sequence[Mapping[str, str]], specs_of: Callable[[Mapping[str, str]], Sequence[RunSpec]]) -> RunSpec:
    """Check a search before it begins, at some of its points.

    Args:
        specs_of: composes a point; raises a ConfigError where it cannot be.

    Returns:
        The first run.

    Raises:
        ConfigError: every problem of every point.
    """
    problems: dict[str, Problem] = {}
    found: list[RunSpec] = []
    for point in points:
        try:
            found += specs_of(point)
        except ConfigError as error:
            problems |= {str(each): each for each in error.problems}
    if problems:
        raise ConfigError(*problems.values())
    return found[0]
