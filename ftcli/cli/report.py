"""`ftcli report RUN`: the result of a run or pipeline, or the transcripts of a synthesis stage."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import arguments, jobs
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "show the result of a run: loss, score, tokens, time"
ORDER = 150


def run(argv: Sequence[str]) -> int:
    """Print the result of a finished run or pipeline, or the transcripts of a stage."""
    parser = arguments.parser("report", __doc__ or "")
    parser.add_argument("run", help="a run directory, or a run's name (its newest)")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    jobs.resolve_folder(options.run, f"ftcli report {shell_word(options.run)}").report(as_json=options.json)
    return EXIT_DONE
