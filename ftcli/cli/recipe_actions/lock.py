"""`ftcli recipe lock RECIPE RUN|PIPELINE`: write RECIPE.lock, which pins what a finished one read and came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import arguments, output
from ftcli.config.compose import Request
from ftcli.config.recipe_file import find
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

if TYPE_CHECKING:
    from ftcli.recipes.recipe_lock import Lock

SUMMARY = "pin what a run of a recipe read and came to, for train --locked and reproduce"
ORDER = 70


def run(argv: Sequence[str]) -> int:
    """Write the lock beside the recipe."""
    parser = arguments.parser("recipe lock", __doc__ or "")
    parser.add_argument("recipe", help="the YAML file")
    parser.add_argument("run", help="a finished run or pipeline of it: its directory or name")
    arguments.add_grants(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.recipes import recipe_lock  # only here: help composes nothing
    from ftcli.recipes.locking import ANSWERS

    where = f"ftcli recipe lock {shell_word(options.recipe)}"
    recipe = find(options.recipe, where)
    own = recipe if Path(options.recipe).exists() else Path(f"{options.recipe}.yaml")
    request = Request(overrides=(f"recipe={recipe}",), grants=arguments.granted(options))
    lock = _of_pipeline(options.run, recipe, own, request, where) or _of_run(options.run, recipe, request, where)
    file = recipe_lock.place(own)
    recipe_lock.write(file, lock)
    if options.json:
        output.data({"lock": str(file), "files": len(lock.files), "grants": list(lock.grants)})
        return EXIT_DONE
    output.say(f"{file} pins {len(lock.files)} files, {len(lock.machine['packages'])} packages and the outcome")
    if kept := [name for name in lock.files if f"{ANSWERS}:" in name]:
        place = shell_word(own.with_suffix(ANSWERS))
        output.say(f"  {place} holds what the endpoint answered ({len(kept)} files): give it along with the lock")
    if lock.grants:
        output.say(f"  it needs {' '.join(lock.grants)}, on each command line anew")
    output.say(f"  run it as it is with ftcli train {shell_word(f'recipe={own}')} --locked")
    output.say(f"  or compare a new run with it: ftcli reproduce {shell_word(own)}")
    return EXIT_DONE


def _of_run(name: str, recipe: Path, request: Request, where: str) -> Lock:
    from ftcli.build.resolve import spec_of
    from ftcli.recipes import locking

    folder = rundir.require_run(name, where)
    threads = (f"{name}={value}" for name, value in locking.threads_of(folder).items())
    return locking.of_run(recipe, spec_of(replace(request, overrides=(*request.overrides, *threads))), folder)


def _of_pipeline(name: str, recipe: Path, own: Path, request: Request, where: str) -> Lock | None:
    """The lock of a pipeline's recipe; None for the recipe of a run.

    Args:
        own: beside which the lock will lie.

    Raises:
        ConfigError: what is named is no finished pipeline of it.
    """
    from ftcli.pipelines.pipeline_request import pipeline_request

    wanted = pipeline_request(request)
    if wanted is None:
        return None
    from ftcli.pipelines.stage_specs import pipeline_spec
    from ftcli.recipes import pipeline_lock

    folder = rundir.find_pipeline(name)
    if folder is None:
        what = f"{name} is not a pipeline, and the recipe is of {wanted.pipeline.name}"
        raise ConfigError(Problem(where, what, "name the folder that holds its pipeline.json"))
    pipeline_lock.require_same(wanted.pipeline, folder)
    stages = {stage.name for stage in wanted.pipeline.stages}
    names = [name for name in rundir.read_pipeline(folder)["stages"] if name in stages]
    threads = (f"{name}={value}" for name, value in pipeline_lock.threads_of(folder, names).items())
    wanted = replace(wanted, request=replace(request, overrides=(*request.overrides, *threads)))
    lock = pipeline_lock.of_pipeline(recipe, own, wanted, pipeline_spec(wanted), folder)
    if lost := pipeline_lock.answers(own, pipeline_spec(wanted)).free:
        what = f"{', '.join(sorted(lost))}: an endpoint is asked, whose answers were not kept, so that nobody can make"
        output.warn(f"{what} exactly the same again; the lock compares the other stages")
    return lock
