"""`ftcli schema [RECIPE]`: the JSON Schema of recipes, for editors that complete and check one while it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "print the JSON Schema of recipes, for completion in editors"
ORDER = 145


def run(argv: Sequence[str]) -> int:
    """Print the schema of every recipe, or with a recipe that of its own choices alone."""
    parser = arguments.parser("schema", __doc__ or "")
    parser.add_argument(
        "recipe", nargs="?", help="a shipped recipe, or a YAML file: what it may set with the choices that it makes"
    )
    parser.add_argument(
        "--config-dir", "-cd", action="append", default=[], type=Path, help="folder with your own group files"
    )
    parser.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    options = arguments.parse(parser, argv)
    from ftcli.config.recipe_file import find, read  # only here: help needs none of the declarations
    from ftcli.editors.recipe_schema import recipe_schema

    choices = None
    if options.recipe is not None:
        path = find(options.recipe, f"ftcli schema {shell_word(options.recipe)}")
        choices = read(path, allow_path=options.allow_path).choices
    output.data(recipe_schema(choices, options.config_dir))
    return EXIT_DONE
