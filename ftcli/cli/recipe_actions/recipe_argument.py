"""The argument that several actions take: a shipped recipe, or a YAML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ftcli.cli import arguments
from ftcli.core import assets


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
