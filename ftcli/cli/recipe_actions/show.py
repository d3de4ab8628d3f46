"""`ftcli recipe show RECIPE`: print a recipe, as a starting point for your own."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import output
from ftcli.cli.recipe_actions import recipe_argument
from ftcli.config.credentials import masked
from ftcli.core.exit_codes import EXIT_DONE

SUMMARY = "print a recipe, as a starting point for your own"
ORDER = 20


def run(argv: Sequence[str]) -> int:
    """Print a recipe as it is written, its credentials masked."""
    options, path = recipe_argument.read("show", __doc__ or "", argv)
    if not options.json:
        output.text(masked(path.read_text(encoding="utf-8")), end="")
    return EXIT_DONE
