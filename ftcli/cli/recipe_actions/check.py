"""`ftcli recipe check RECIPE`: whether a file is a plain recipe; `ftcli check recipe=RECIPE` checks its values too."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import output
from ftcli.cli.recipe_actions import recipe_argument
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "whether a file is a plain recipe: data, in the right form"
ORDER = 30


def run(argv: Sequence[str]) -> int:
    """Read a recipe and confirm that it is one."""
    options, path = recipe_argument.read("check", __doc__ or "", argv)
    if not options.json:
        named = shell_word(f"recipe={options.name}")
        output.say(f"{path.name} is a plain recipe; check its values with ftcli check {named}")
    return EXIT_DONE
