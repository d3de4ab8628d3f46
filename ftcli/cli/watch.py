"""`ftcli watch [RUN|FOLDER]`: runs that are at work and those that were, from their files alone.

It needs no process of a run: one on another machine that shares the folder is shown alike, and so is one that was
killed. On a terminal the table is drawn anew every two seconds until nothing is at work; elsewhere, and with --once, it
is printed once. --serve shows it, and the page of each run, in a browser of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.reports.overview import COLUMNS, DAMAGED, Glance, glances
from ftcli.runs import provenance, rundir

SUMMARY = "watch runs at work: how far, loss, time left; --serve shows them in a browser"
ORDER = 145

REDRAW_SECONDS = 2.0


def run(argv: Sequence[str]) -> int:
    """Show the runs of a folder, once or until none is at work."""
    parser = arguments.parser("watch", __doc__ or "")
    parser.add_argument("place", nargs="?", default=str(rundir.ROOT), help="a run, its name, or a folder (runs/)")
    parser.add_argument("--once", action="store_true", help="print the table and end")
    parser.add_argument(
        "--serve", nargs="?", type=int, const=8765, metavar="PORT", help="serve pages on this machine (port 8765)"
    )
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    place = _place(options.place)
    if options.serve is not None:
        from ftcli.reports.local_pages import serve

        return serve(place, options.serve, output.note)
    if options.json:
        output.data([_as_data(each) for each in glances(place)])
    elif options.once or not output.is_terminal():
        output.table(_rows(glances(place)))
    else:
        _draw(place)
    return EXIT_DONE


def _place(name: str) -> Path:
    """The folder that is watched: a folder of runs, a run, or the newest run of a name.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    found = rundir.find_pipeline(name) or rundir.find_run(name)
    if found is None:
        raise ConfigError(Problem(f"ftcli watch {name}", "is no run and no folder", "ftcli watch runs"))
    return found


def _as_data(each: Glance) -> dict[str, Any]:
    own = {provenance.KEY: provenance.of_folder(each.folder)} if each.state != DAMAGED else {}
    return {**asdict(each), "folder": str(each.folder), **own}


def _rows(found: Sequence[Glance]) -> list[tuple[str, ...]]:
    """The table, without columns in which no run has anything."""
    rows = [COLUMNS, *(each.cells() for each in found)] if found else [("no runs here yet",)]
    kept = [place for place in range(len(rows[0])) if place == 0 or any(row[place] for row in rows[1:])]
    return [tuple(row[place] for place in kept) for row in rows]


def _draw(place: Path) -> None:
    """Draw the table anew until no run is at work."""
    with output.redrawn() as draw:
        while True:
            found = glances(place)
            draw(_rows(found))
            if all(each.over for each in found):
                return
            time.sleep(REDRAW_SECONDS)
