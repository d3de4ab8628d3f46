"""`ftcli watch [RUN|FOLDER]`: runs that are at work and those that were, from their files alone.

It needs no process of a run: one on another machine that shares the folder is shown alike, and so is one that was
killed. On a terminal the table is drawn anew every two seconds until nothing is at work; elsewhere, and with --once, it
is printed once. --serve shows it, and the page of each run, in a browser of this machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.launch.screen import can_be_redrawn
from ftcli.reports.overview import DAMAGED, Glance, glances, rows
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
    elif options.once or not can_be_redrawn(sys.stdout):
        output.table(rows(glances(place)))
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
    if found is not None:
        return found
    if name == str(rundir.ROOT):
        what, fix = f"there is no folder {name} here", "name a run, or a folder of runs"
        raise ConfigError(Problem("ftcli watch", what, fix))
    fix = f"ftcli watch {rundir.ROOT}" if rundir.ROOT.is_dir() else "name a run, or a folder of runs"
    raise ConfigError(Problem(f"ftcli watch {shell_word(name)}", "is no run and no folder", fix))


def _as_data(each: Glance) -> dict[str, Any]:
    own = {provenance.KEY: provenance.of_folder(each.folder)} if each.state != DAMAGED else {}
    return {**asdict(each), "folder": str(each.folder), **own}


def _draw(place: Path) -> None:
    """Draw the table anew until no run is at work."""
    from ftcli.cli.render.overview_table import redrawn

    with redrawn() as draw:
        while True:
            found = glances(place)
            draw(found)
            if all(each.over for each in found):
                return
            time.sleep(REDRAW_SECONDS)
