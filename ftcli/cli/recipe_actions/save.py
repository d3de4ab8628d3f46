"""`ftcli recipe save RUN|PIPELINE|COMMAND`: its short recipe: what differs from the defaults, and what was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

SUMMARY = "the short recipe of a run or a command, with what was measured"
ORDER = 60


def run(argv: Sequence[str]) -> int:
    """Print the recipe, or write it to a file."""
    parser = arguments.composing("recipe save", __doc__ or "")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write it to FILE, which must not exist yet")
    options = arguments.parse(parser, argv)
    target: Path | None = options.to
    if target is not None:
        _require_new(target)
    folder = _named(options.overrides)
    place, name = (target.parent, target.name) if target is not None else (Path(), "FILE.yaml")
    if folder is None:
        text, elsewhere = _of_command(arguments.request(options), place, name)
    elif rundir.is_pipeline(folder):
        text, elsewhere = _of_pipeline(folder, place, name)
    else:
        text, elsewhere = _of_run(folder, place, name)
    if target is not None:
        rundir.write_atomically(target, text)
    if options.json:
        output.data({"file": str(target) if target else None, "recipe": text, "beside": elsewhere})
    elif target is None:
        output.text(text, end="")
    else:
        output.say(f"{target} is written; check it with ftcli check {shell_word(f'recipe={target}')}")
    for each in dict.fromkeys(elsewhere):
        output.note(f"{each} lies elsewhere: put it beside the recipe, or give it on the command line")
    return EXIT_DONE


def _require_new(target: Path) -> None:
    """Refuse a file that is there, or has not the name of a recipe."""
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(Problem(f"--to {target}", "is not the name of a recipe", "end it in .yaml"))
    if os.path.lexists(target):
        raise ConfigError(Problem(f"--to {target}", "is there already", "choose another name, or remove it"))
    if not target.parent.is_dir():
        raise ConfigError(Problem(f"--to {target}", "its folder is not there", "make the folder first"))


def _named(words: Sequence[str]) -> Path | None:
    """The run or pipeline that the only word names; None for a command.

    Raises:
        ConfigError: there is nothing to save.
    """
    if not words:
        raise ConfigError(Problem("ftcli recipe save", "needs a run or a command", "ftcli recipe save RUN"))
    known = rundir.find_pipeline(words[0]) or rundir.find_run(words[0])
    if known is None and (len(words) > 1 or "=" in words[0] or os.path.isfile(words[0])):
        return None
    if len(words) > 1:
        what = f"{words[0]} is a run; what else is set would not be its recipe"
        raise ConfigError(Problem("ftcli recipe save", what, f"ftcli recipe save {shell_word(words[0])}"))
    return known or rundir.require_run(words[0], f"ftcli recipe save {shell_word(words[0])}")


def _of_run(run: Path, place: Path, name: str) -> tuple[str, list[str]]:
    from ftcli.build import gate  # only here: help composes nothing
    from ftcli.recipes import recipe_origin, short_recipe

    return short_recipe.recipe(gate.composed_anew(run), place, name, recipe_origin.lines(run))


def _of_pipeline(folder: Path, place: Path, name: str) -> tuple[str, list[str]]:
    """The recipe of a pipeline; a stage that has begun is taken as it runs, which a resume may have changed."""
    from ftcli.build import gate
    from ftcli.pipelines.pipeline_dir import load_request
    from ftcli.recipes import pipeline_recipe, recipe_origin

    wanted, _ = load_request(folder, Request())
    entries = {stage: dict(kept) for stage, kept in (wanted.earlier or {}).items()}
    for stage, kept in entries.items():
        if "tree" in kept and rundir.is_run(folder / stage):
            spec = gate.composed_anew(folder / stage)
            kept |= {"tree": spec.tree, "choices": spec.choices}
    told = [*pipeline_recipe.provenance(folder, wanted.pipeline, recipe_origin.lines)]
    return pipeline_recipe.recipe(wanted.pipeline, entries, place, name, told or [recipe_origin.NOT_MEASURED])


def _of_command(request: Request, place: Path, name: str) -> tuple[str, list[str]]:
    from ftcli.build.resolve import spec_of
    from ftcli.pipelines.pipeline_request import pipeline_request
    from ftcli.recipes import pipeline_recipe, recipe_origin, short_recipe

    told = [recipe_origin.NOT_MEASURED]
    if (wanted := pipeline_request(request)) is None:
        return short_recipe.recipe(spec_of(request), place, name, told)
    from ftcli.pipelines.stage_specs import pipeline_spec

    return pipeline_recipe.recipe(wanted.pipeline, pipeline_spec(wanted).remembered(), place, name, told)
