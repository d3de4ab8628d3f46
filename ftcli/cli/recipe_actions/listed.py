"""`ftcli recipe list`: the shipped recipes, each with what it is for."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments
from ftcli.cli.listing import run as list_run

NAME = "list"
SUMMARY = "the shipped recipes, each with what it is for"
ORDER = 10


def run(argv: Sequence[str]) -> int:
    """List the shipped recipes."""
    parser = arguments.parser("recipe list", __doc__ or "")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    return list_run(["recipe", *(["--json"] if options.json else [])])
