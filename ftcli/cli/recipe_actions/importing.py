"""`ftcli recipe import FILE`: a recipe from a configuration of LLaMA-Factory, Axolotl, ms-swift, TRL, the alignment
handbook or torchtune, and an account of every key of it. Nothing of the file is run, and nothing is overwritten."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.cli.render import imported as render
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.paths import home_expanded
from ftcli.core.text import shell_word

NAME = "import"
SUMMARY = "a recipe from another tool's configuration, with an account of every key"
ORDER = 60


def run(argv: Sequence[str]) -> int:
    """Print or write the recipe, and print the account: on stdout beside --to, else on stderr."""
    from ftcli.cli.jobs.imported import imported  # only here: help needs no checks
    from ftcli.config.conversion import TOOLS

    parser = arguments.parser("recipe import", __doc__ or "")
    parser.add_argument("file", nargs="?", help="a .yaml, .yml or .json file, or a .sh file with the command line")
    parser.add_argument("--from", dest="tool", choices=TOOLS, help="the tool it is of; without it, it is recognised")
    parser.add_argument("--to", metavar="FILE", help="write the recipe to this file, which must not exist")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.file is None:
        parser.error("recipe import needs a file of another tool")
    target = home_expanded(options.to) if options.to else None
    if target is not None:
        _require_new(target, options.to)
    folder = target.parent if target is not None else Path.cwd()
    found = imported(options.file, options.tool, folder)
    recipe = found.conversion.recipe_at(folder)
    if target is not None:
        _write(target, recipe, options.to)
    if options.json:
        plain = {**render.data(found.conversion), "recipe": recipe, "written_to": options.to}
        output.data({**plain, "problems": [asdict(each) for each in found.problems]})
    elif target is not None:
        output.lines(render.lines(found.conversion, found.problems))
        output.say()
        output.say(f"written: {options.to}; check it with ftcli check {shell_word(f'recipe={options.to}')}")
    else:
        output.text(recipe, end="")
        output.note("\n".join(render.lines(found.conversion, found.problems)))
    return EXIT_DONE


def _require_new(target: Path, shown: str) -> None:
    where = f"--to {shell_word(shown)}"
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(Problem(where, "is no name of a recipe", "let it end in .yaml"))
    if os.path.lexists(target):
        raise ConfigError(Problem(where, f"{shown} exists, and nothing is overwritten", "name a new file"))
    if not target.parent.is_dir():
        raise ConfigError(Problem(where, f"there is no folder {target.parent}", "make it first"))


def _write(target: Path, recipe: str, shown: str) -> None:
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(recipe)
    except OSError as error:
        where = f"--to {shell_word(shown)}"
        raise ConfigError(Problem(where, f"cannot be written: {error.strerror}", "name another file")) from None
