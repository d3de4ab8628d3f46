"""`ftcli recipe lock RECIPE RUN`: write RECIPE.lock, which pins what a finished run of the recipe read and came to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.config.compose import Request
from ftcli.config.recipe_file import find
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

SUMMARY = "pin what a run of a recipe read and came to, for train --locked and reproduce"
ORDER = 70


def run(argv: Sequence[str]) -> int:
    """Write the lock beside the recipe."""
    parser = arguments.parser("recipe lock", __doc__ or "")
    parser.add_argument("recipe", help="the YAML file")
    parser.add_argument("run", help="a finished run of it: its directory or name")
    arguments.add_grants(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.build.resolve import spec_of
    from ftcli.recipes import locking, recipe_lock  # only here: help composes nothing

    where = f"ftcli recipe lock {shell_word(options.recipe)}"
    recipe, folder = find(options.recipe, where), rundir.require_run(options.run, where)
    own = recipe if Path(options.recipe).exists() else Path(f"{options.recipe}.yaml")
    threads = [f"{name}={value}" for name, value in locking.threads_of(folder).items()]
    spec = spec_of(Request(overrides=(f"recipe={recipe}", *threads), grants=arguments.granted(options)))
    lock = locking.of_run(recipe, spec, folder)
    file = recipe_lock.place(own)
    recipe_lock.write(file, lock)
    if options.json:
        output.data({"lock": str(file), "files": len(lock.files), "grants": list(lock.grants)})
        return EXIT_DONE
    output.say(f"{file} pins {len(lock.files)} files, {len(lock.machine['packages'])} packages and the outcome")
    if lock.grants:
        output.say(f"  it needs {' '.join(lock.grants)}, on each command line anew")
    output.say(f"  run it as it is with ftcli train {shell_word(f'recipe={own}')} --locked")
    output.say(f"  or compare a new run with it: ftcli reproduce {shell_word(own)}")
    return EXIT_DONE
