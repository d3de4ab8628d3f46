"""`ftcli recipe check RECIPE`: whether a file is a plain recipe; `ftcli check recipe=RECIPE` checks its values too."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, output
from ftcli.cli.recipe_actions import recipe_argument
from ftcli.config.credentials import masked_values
from ftcli.config.recipe_file import find, read
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "whether a file is a plain recipe: data, in the right form"
ORDER = 30


def run(argv: Sequence[str]) -> int:
    """Read a recipe and confirm that it is one."""
    parser = recipe_argument.parser("check", __doc__ or "")
    parser.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    options = recipe_argument.parse(parser, argv)
    path = find(options.name, f"ftcli recipe check {shell_word(options.name)}")
    recipe = read(path, allow_path=options.allow_path)
    if options.json:
        output.data({"file": str(path), "choices": recipe.choices, "values": masked_values(recipe.values)})
    else:
        named = shell_word(f"recipe={options.name}")
        output.say(f"{path.name} is a plain recipe; check its values with ftcli check {named}")
    return EXIT_DONE
