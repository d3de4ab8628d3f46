"""The argument that several actions take: a shipped recipe, or a YAML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.config import recipe_file
from ftcli.config.credentials import masked_values
from ftcli.config.recipe_file import find
from ftcli.core import assets
from ftcli.core.text import shell_word


def parser(action: str, description: str, *, also: str = "") -> arguments.Parser:
    """A parser of an action on one recipe, with --json.

    Args:
        also: what may be named beside a recipe.
    """
    into = arguments.parser(f"recipe {action}", description)
    into.add_argument("name", nargs="?", help=f"a shipped recipe, or a YAML file{also}")
    arguments.add_json(into)
    return into


def parse(into: arguments.Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed flags; a recipe is named.

    Raises:
        ConfigError: an unknown flag, or no recipe.
    """
    options = arguments.parse(into, argv)
    if options.name is None:
        action = into.prog.removeprefix("ftcli ")
        into.error(f"{action} needs a name or file; the recipes are {', '.join(assets.recipes())}")
    return options


def read(action: str, description: str, argv: Sequence[str]) -> tuple[argparse.Namespace, Path]:
    """The flags and the file of an action that reads one recipe; with --json its content is printed.

    Raises:
        ConfigError: an unknown flag, or no plain recipe.
    """
    into = parser(action, description)
    into.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    options = parse(into, argv)
    path = find(options.name, f"ftcli recipe {action} {shell_word(options.name)}")
    recipe = recipe_file.read(path, allow_path=options.allow_path)
    if options.json:
        output.data({"file": str(path), "choices": recipe.choices, "values": masked_values(recipe.values)})
    return options, path
