"""`ftcli check`: find all mistakes in a recipe or command at once, without running it."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, jobs
from ftcli.core.exit_codes import EXIT_DONE

SUMMARY = "find all mistakes in a recipe or command without running it"
ORDER = 30


def run(argv: Sequence[str]) -> int:
    """Compose and check; confirm that there are no problems."""
    parser = arguments.composing("check", __doc__ or "")
    arguments.add_from(parser)
    options = arguments.parse(parser, argv)
    jobs.like(options.source, arguments.request(options)).check(as_json=options.json)
    return EXIT_DONE
