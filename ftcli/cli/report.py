"""`ftcli report RUN…`: where runs stand and what came of them, as text and as a page with their curves.

The page of one run lies in its folder; --to writes it elsewhere, and is needed for several runs, whose curves lie over
each other. A file that ends with .csv gets the points of the curves, one with .svg their drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import arguments, jobs, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

if TYPE_CHECKING:
    from ftcli.reports.run_record import RunRecord

SUMMARY = "show where a run stands and its result, as text and as a page with its curves"
ORDER = 150


def run(argv: Sequence[str]) -> int:
    """Print where each run or pipeline stands, or the transcripts of a stage, and write the page."""
    parser = arguments.parser("report", __doc__ or "")
    parser.add_argument("run", nargs="+", help="a run directory, or a run's name (its newest)")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the report there: .html, .csv or .svg")
    parser.add_argument("--no-rows", action="store_true", help="a page without rows and answers, to be shown around")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.to is not None:
        _require_format(options.to)
    elif len(options.run) > 1:
        parser.error("several runs need a file for their page: --to FILE.html")
    folders = [jobs.resolve_folder(name, f"ftcli report {shell_word(name)}") for name in options.run]
    for folder in folders:
        folder.report(as_json=options.json)
    records = [record for folder in folders for record in folder.records()]
    if not records:
        return EXIT_DONE
    from ftcli.reports.page_file import PAGE, content

    file = options.to or _folder(records) / rundir.REPORT
    try:
        rundir.write_atomically(file, content(records, file.suffix, rows=not options.no_rows))
    except OSError as error:
        what, fix = f"cannot be written: {error.strerror}", "name a place of your own with --to FILE.html"
        if options.to is not None:
            raise ConfigError(Problem(str(file), what, fix)) from None
        output.warn(f"{file}: {what}; {fix}")  # the run may be another user's
    else:
        output.note(f"{'page' if file.suffix == PAGE else 'written to'} {file}")
    return EXIT_DONE


def _folder(records: Sequence[RunRecord]) -> Path:
    """Where the page of a run or a pipeline lies."""
    return records[0].folder if len(records) == 1 else rundir.whole(records[0].folder)


def _require_format(file: Path) -> None:
    from ftcli.reports.page_file import FORMATS

    if file.suffix not in FORMATS:
        what = f"{file} has no ending that tells what to write"
        raise ConfigError(Problem("--to", what, f"end it with {', '.join(FORMATS)}"))
