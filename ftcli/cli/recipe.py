"""`ftcli recipe`: list the shipped recipes, or print one as a starting point for your own."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, output
from ftcli.cli.listing import run as list_run
from ftcli.config.credentials import masked, masked_values
from ftcli.config.recipe_file import find, read
from ftcli.core import assets
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "list and print the shipped recipes"
ORDER = 140


def run(argv: Sequence[str]) -> int:
    """`recipe` lists, `recipe show NAME` prints, `recipe check FILE` checks that a file is a plain recipe."""
    parser = arguments.parser("recipe", __doc__ or "")
    parser.add_argument("action", nargs="?", choices=("list", "show", "check"), default="list")
    parser.add_argument("name", nargs="?", help="a shipped recipe, or a YAML file")
    parser.add_argument("--allow-path", action="store_true", help=arguments.GRANTS["--allow-path"])
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.action == "list":
        return list_run(["recipe", *(["--json"] if options.json else [])])
    if options.name is None:
        parser.error(f"recipe {options.action} needs a name or file; the recipes are {', '.join(assets.recipes())}")
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
