"""`ftcli recipe`: list the shipped recipes, print one as a starting point for your own, or say what one would touch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.cli.listing import run as list_run
from ftcli.config.credentials import masked, masked_values
from ftcli.config.recipe_file import find, read
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.paths import home_expanded
from ftcli.core.text import shell_word
from ftcli.data.files.urls import is_web, shown

SUMMARY = "list and print the shipped recipes; inspect says what one of a stranger would touch"
ORDER = 140

MOST_BYTES = 2**20
"""Of a recipe behind an address."""


def run(argv: Sequence[str]) -> int:
    """`recipe` lists, `recipe show NAME` prints, `recipe check FILE` checks that a file is a plain recipe, and
    `recipe inspect FILE|FOLDER|URL` says in plain words what it would read, write, send and run."""
    parser = arguments.parser("recipe", __doc__ or "")
    parser.add_argument("action", nargs="?", choices=("list", "show", "check", "inspect"), default="list")
    parser.add_argument(
        "name", nargs="?", help="a shipped recipe, or a YAML file; to inspect also a folder or an address"
    )
    parser.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.action == "list":
        return list_run(["recipe", *(["--json"] if options.json else [])])
    if options.name is None:
        parser.error(f"recipe {options.action} needs a name or file; the recipes are {', '.join(assets.recipes())}")
    if options.action == "inspect":
        return _inspect(options.name, as_json=options.json)
    path = find(options.name, f"ftcli recipe {options.action} {options.name}")
    recipe = read(path, allow_path=options.allow_path)
    if options.json:
        output.data({"file": str(path), "choices": recipe.choices, "values": masked_values(recipe.values)})
    elif options.action == "show":
        output.text(masked(path.read_text(encoding="utf-8")), end="")
    else:
        named = shell_word(f"recipe={options.name}")
        output.say(f"{path.name} is a plain recipe; check its values with ftcli check {named}")
    return EXIT_DONE


def _inspect(name: str, *, as_json: bool) -> int:
    """Print what a recipe, a folder, or a recipe behind an address would touch."""
    from ftcli.build import inspection  # only here: the other actions need no checks

    where = f"ftcli recipe inspect {shell_word(name)}"
    if is_web(name):
        with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_bytes(_downloaded(name, where))
            found = inspection.of_recipe(path, shown(name))
    elif os.path.isdir(home_expanded(name)):
        found = inspection.of_folder(home_expanded(name))
    else:
        found = inspection.of_recipe(find(name, where))
    if as_json:
        output.data(found.to_data())
    else:
        output.lines(inspection.lines(found))
    return EXIT_DONE


def _downloaded(address: str, where: str) -> bytes:
    """The recipe behind an address.

    Raises:
        ConfigError: it cannot be had, or is too large for one.
    """
    from ftcli.data.files.http import look

    with look(address, where) as file:
        content = file.read(MOST_BYTES + 1) or b""
        while len(content) <= MOST_BYTES and (more := file.read(MOST_BYTES + 1 - len(content))):
            content += more
    if len(content) > MOST_BYTES:
        what = f"has more than {MOST_BYTES // 2**20} MiB, which no recipe has"
        raise ConfigError(Problem(shown(address), what, "name the address of the YAML file itself"))
    return content
