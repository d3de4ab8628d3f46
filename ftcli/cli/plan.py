"""`ftcli plan`: steps, tokens, parameters and memory of a run, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, jobs
from ftcli.core.exit_codes import EXIT_DONE

SUMMARY = "plan a run: steps, tokens, parameters, memory, warnings"
ORDER = 20


def run(argv: Sequence[str]) -> int:
    """Print the plan."""
    parser = arguments.composing("plan", __doc__ or "")
    arguments.add_from(parser)
    options = arguments.parse(parser, argv)
    jobs.measured(lambda: jobs.like(options.source, arguments.request(options))).plan(as_json=options.json)
    return EXIT_DONE
