"""`ftcli recipe save RUN|COMMAND`: the short recipe of a run: what differs from the defaults, and what was measured."""

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
from ftcli.settings.run_spec import RunSpec

SUMMARY = "the short recipe of a run or a command, with what was measured"
ORDER = 60


def run(argv: Sequence[str]) -> int:
    """Print the recipe, or write it to a file."""
    from ftcli.recipes import recipe_origin, short_recipe  # only here: help composes nothing

    parser = arguments.composing("recipe save", __doc__ or "")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write it to FILE, which must not exist yet")
    options = arguments.parse(parser, argv)
    target: Path | None = options.to
    if target is not None:
        _require_new(target)
    folder = _run_named(options.overrides)
    if folder is not None:
        from ftcli.build import gate

        spec, told = gate.composed_anew(folder), recipe_origin.lines(folder)
    else:
        spec, told = _spec_of(arguments.request(options)), [recipe_origin.NOT_MEASURED]
    name = target.name if target is not None else "FILE.yaml"
    text, elsewhere = short_recipe.recipe(spec, target.parent if target else Path(), name, told)
    if target is not None:
        rundir.write_atomically(target, text)
    if options.json:
        output.data({"file": str(target) if target else None, "recipe": text, "beside": elsewhere})
    elif target is None:
        output.text(text, end="")
    else:
        output.say(f"{target} is written; check it with ftcli check {shell_word(f'recipe={target}')}")
    for each in elsewhere:
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


def _run_named(words: Sequence[str]) -> Path | None:
    """The run that the only word names; None for a command.

    Raises:
        ConfigError: it is a pipeline, or there is nothing to save.
    """
    if not words:
        raise ConfigError(Problem("ftcli recipe save", "needs a run or a command", "ftcli recipe save RUN"))
    known = rundir.find_pipeline(words[0]) or rundir.find_run(words[0])
    if known is None and (len(words) > 1 or "=" in words[0] or os.path.isfile(words[0])):
        return None
    if len(words) > 1:
        what = f"{words[0]} is a run; what else is set would not be its recipe"
        raise ConfigError(Problem("ftcli recipe save", what, f"ftcli recipe save {shell_word(words[0])}"))
    if (pipeline := rundir.find_pipeline(words[0])) is not None:
        stages = [name for name in rundir.read_pipeline(pipeline)["stages"] if rundir.is_run(pipeline / name)]
        fix = " or ".join(f"ftcli recipe save {shell_word(pipeline / name)}" for name in stages[:3])
        raise ConfigError(Problem(str(pipeline), "is a pipeline; a recipe is saved of one of its stages", fix))
    return rundir.require_run(words[0], f"ftcli recipe save {shell_word(words[0])}")


def _spec_of(request: Request) -> RunSpec:
    from ftcli.build.resolve import spec_of
    from ftcli.pipelines.pipeline_request import pipeline_request

    if (wanted := pipeline_request(request)) is not None:
        what = f"{wanted.pipeline.name} is a pipeline; a recipe is saved of a single run"
        raise ConfigError(Problem("ftcli recipe save", what, "start it, and save one of its stages"))
    return spec_of(request)
