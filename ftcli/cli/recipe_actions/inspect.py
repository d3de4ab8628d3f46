"""`ftcli recipe inspect RECIPE|FOLDER|URL`: what it would read, write, send and run, in plain words."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import output
from ftcli.cli.recipe_actions import recipe_argument
from ftcli.config.recipe_file import find
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.paths import home_expanded
from ftcli.core.text import shell_word
from ftcli.data.files.urls import is_web, shown

SUMMARY = "what a recipe, folder or address of a stranger would read, write, send and run"
ORDER = 50


def run(argv: Sequence[str]) -> int:
    """Print what a recipe, a folder, or a recipe behind an address would touch."""
    from ftcli.build import inspection  # only here: help needs no checks
    from ftcli.recipes.fetching import web_content

    parser = recipe_argument.parser("inspect", __doc__ or "", also=", a folder, or an address")
    options = recipe_argument.parse(parser, argv)
    name = options.name
    where = f"ftcli recipe inspect {shell_word(name)}"
    if is_web(name):
        with tempfile.TemporaryDirectory(prefix="ftcli-") as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_bytes(web_content(name, where))
            found = inspection.of_recipe(path, shown(name))
    elif os.path.isdir(home_expanded(name)):
        found = inspection.of_folder(home_expanded(name))
    else:
        found = inspection.of_recipe(find(name, where))
    if options.json:
        output.data(found.to_data())
    else:
        output.lines(inspection.lines(found))
    return EXIT_DONE
