"""`ftcli recipe show RECIPE`: print a recipe, as a starting point for your own."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, output
from ftcli.cli.recipe_actions import recipe_argument
from ftcli.config.credentials import masked, masked_values
from ftcli.config.recipe_file import find, read
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "print a recipe, as a starting point for your own"
ORDER = 20


def run(argv: Sequence[str]) -> int:
    """Print a recipe as it is written, its credentials masked."""
    parser = recipe_argument.parser("show", __doc__ or "")
    parser.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    options = recipe_argument.parse(parser, argv)
    path = find(options.name, f"ftcli recipe show {shell_word(options.name)}")
    recipe = read(path, allow_path=options.allow_path)
    if options.json:
        output.data({"file": str(path), "choices": recipe.choices, "values": masked_values(recipe.values)})
    else:
        output.text(masked(path.read_text(encoding="utf-8")), end="")
    return EXIT_DONE
