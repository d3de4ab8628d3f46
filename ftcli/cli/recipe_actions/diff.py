"""`ftcli recipe diff A B`: what differs between two recipes or runs, as they are resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ftcli.cli import arguments, output
from ftcli.config.compose import Request
from ftcli.config.credentials import masked_values
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

SUMMARY = "what differs between two recipes or runs, as they are resolved"
ORDER = 40


def run(argv: Sequence[str]) -> int:
    """Print each setting that differs, with both values; nothing is trained or written."""
    parser = arguments.parser("recipe diff", __doc__ or "")
    parser.add_argument("first", metavar="A", help="a shipped recipe, a YAML file, or a run")
    parser.add_argument("second", metavar="B", help="another")
    arguments.add_grants(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.recipes.difference import differences  # only here: help composes nothing

    grants = arguments.granted(options)
    found = differences(_spec_of(options.first, grants), _spec_of(options.second, grants))
    rows: list[dict[str, Any]] = masked_values([asdict(each) for each in found])
    if options.json:
        output.data(rows, key="differences")
        return EXIT_DONE
    if not rows:
        output.say("no differences")
    table = [(each["setting"], f"{each['first']} → {each['second']}", each["why"]) for each in rows]
    output.table(table)
    return EXIT_DONE


def _spec_of(name: str, grants: frozenset[str]) -> RunSpec:
    """The run of a recipe, or the one in a folder; a recipe wins where both have the name."""
    from ftcli.build import gate
    from ftcli.build.resolve import described
    from ftcli.config.recipe_file import find
    from ftcli.core.errors import ConfigError

    try:
        find(name, "ftcli recipe diff")
    except ConfigError:
        folder = rundir.find_run(name)
        if folder is None:
            raise
        return gate.opened(folder)
    return described(Request(overrides=(f"recipe={name}",), grants=grants)).spec
