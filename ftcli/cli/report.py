"""`ftcli report RUN…`: where runs stand and what came of them, as text and as a page with their curves.

The page of one run lies in its folder, and that of a sweep, with its best jobs, in the folder of the sweep; --to writes
it elsewhere, and is needed for several runs, whose curves lie over each other. A file that ends with .csv gets the
points of the curves, one with .svg their drawing; the browser draws PNG, by a button under each chart of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import arguments, jobs, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

if TYPE_CHECKING:
    from ftcli.cli.jobs import JobFolder
    from ftcli.reports.run_record import RunRecord
    from ftcli.sweeps.run_table import RunTable
    from ftcli.sweeps.sweep_folder import Sweep

SUMMARY = "show where a run stands and its result, as text and as a page with its curves"
ORDER = 150
MOST_JOBS = 20
"""Of a sweep, on one page: of more the curves could not be told apart."""


def run(argv: Sequence[str]) -> int:
    """Print where each run or pipeline stands, or the transcripts of a stage, and write the page."""
    parser = arguments.parser("report", __doc__ or "")
    parser.add_argument("run", nargs="+", help="a run directory, a run's name (its newest), or the folder of a sweep")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the report there: .html, .csv or .svg")
    parser.add_argument("--no-rows", action="store_true", help="a page without rows and answers, to be shown around")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.to is not None:
        _require_format(options.to)
    elif len(options.run) > 1:
        parser.error("several runs need a file for their page: --to FILE.html")
    folders = [_job_or_sweep(name) for name in options.run]
    for folder in folders:
        folder.report(as_json=options.json)
    records = [record for folder in folders for record in folder.records()]
    if not records:
        return EXIT_DONE
    from ftcli.reports.page_file import PAGE, content

    file = options.to or _page_folder(folders[0], records) / rundir.REPORT
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


def _job_or_sweep(name: str) -> JobFolder | _Sweep:
    from ftcli.sweeps.sweep_folder import is_sweep, read_sweep

    if is_sweep(Path(name)):
        return _Sweep(read_sweep(Path(name)))
    return jobs.resolve_folder(name, f"ftcli report {shell_word(name)}")


@dataclass(frozen=True)
class _Sweep:
    """The folder of a sweep, whose jobs are runs or pipelines."""

    sweep: Sweep

    @cached_property
    def _table(self) -> RunTable:
        from ftcli.sweeps.run_table import of_sweep

        return of_sweep(self.sweep, self.sweep.measure)

    def report(self, *, as_json: bool) -> None:
        """Print the table of its jobs, the best first."""
        from ftcli.cli.render.run_table import show_sweep

        show_sweep(self.sweep, self._table, as_json=as_json)

    def records(self) -> list[RunRecord]:
        """Those of its best jobs that have begun."""
        folders = [Path(row.run) for row in self._table.rows]
        begun = [each for each in folders if rundir.is_run(each) or rundir.is_pipeline(each)]
        if len(begun) > MOST_JOBS:
            output.note(f"the page shows the best {MOST_JOBS} of {len(begun)} jobs; name others to see them")
        job_folders = [jobs.resolve_folder(str(each), f"ftcli report {shell_word(each)}") for each in begun[:MOST_JOBS]]
        return [record for folder in job_folders for record in folder.records()]


def _page_folder(named: JobFolder | _Sweep, records: Sequence[RunRecord]) -> Path:
    """Where the page of a run, a pipeline or a sweep lies."""
    if isinstance(named, _Sweep):
        return named.sweep.folder
    return records[0].folder if len(records) == 1 else rundir.whole(records[0].folder)


def _require_format(file: Path) -> None:
    from ftcli.reports.page_file import FORMATS

    if file.suffix == ".png":
        what = f"{file}: nothing here draws pixels; a browser does, by the button PNG under each chart of a page"
        raise ConfigError(Problem("--to", what, f"--to {shell_word(file.with_suffix('.svg'))}, or open the page"))
    if file.suffix not in FORMATS:
        what = f"{file} has no ending that tells what to write"
        raise ConfigError(Problem("--to", what, f"end it with {', '.join(FORMATS)}"))
