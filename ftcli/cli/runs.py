"""`ftcli runs list | compare`: runs side by side, in what they differ and what came of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir

SUMMARY = "list runs, or compare any: what differs, held-out loss, score, time"
ORDER = 152


def run(argv: Sequence[str]) -> int:
    """`runs list [FOLDER]` lists the runs below runs/ or a folder, `runs compare RUN RUN …` ranks the named ones by
    held-out loss, or by score; a sweep's folder stands for its jobs."""
    parser = arguments.parser("runs", run.__doc__ or "")
    parser.add_argument("action", choices=("list", "compare"))
    parser.add_argument("runs", nargs="*", metavar="RUN|FOLDER", help="run directories, names of runs, or sweeps")
    arguments.add_json(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV on stdout")
    options = arguments.parse(parser, argv)
    if options.json and options.csv:
        raise ConfigError(Problem("--json --csv", "exclude each other", "keep one of them"))
    form = "json" if options.json else "csv" if options.csv else "text"
    return _list(options.runs, form) if options.action == "list" else _compare(options.runs, form)


def _list(folders: Sequence[str], form: str) -> int:
    from ftcli.cli.render.run_table import list_runs
    from ftcli.sweeps.run_table import listed, runs_below

    if len(folders) > 1:
        raise ConfigError(Problem("ftcli runs list", "lists one folder", "name one, or none for runs/"))
    root = Path(folders[0]) if folders else rundir.ROOT
    if folders and not root.is_dir():
        raise ConfigError(Problem(f"ftcli runs list {shell_word(root)}", "is not a folder", "name one that holds runs"))
    found = runs_below(root)
    if not found and form == "text":
        output.note(f"there are no runs below {root}: start one with ftcli train")
        return EXIT_DONE
    list_runs(listed(found), form=form)
    return EXIT_DONE


def _compare(names: Sequence[str], form: str) -> int:
    from ftcli.cli.render.run_table import show
    from ftcli.sweeps.run_table import of_runs, of_sweep
    from ftcli.sweeps.sweep_folder import is_sweep, read_sweep

    if len(names) == 1 and is_sweep(Path(names[0])):
        sweep = read_sweep(Path(names[0]))
        show(of_sweep(sweep, sweep.measure), form=form)
        return EXIT_DONE
    found = [*dict.fromkeys(folder for name in names for folder in _folders(name))]
    if len(found) < 2:
        what = "needs at least two runs" if not found else f"needs a second run beside {found[0]}"
        raise ConfigError(Problem("ftcli runs compare", what, "ftcli runs compare RUN RUN, or the folder of a sweep"))
    show(of_runs(found), form=form)
    return EXIT_DONE


def _folders(name: str) -> list[Path]:
    """The runs that a word names: the jobs of a sweep, a pipeline, or a run."""
    from ftcli.sweeps.sweep_folder import is_sweep, read_sweep

    if is_sweep(Path(name)):
        sweep = read_sweep(Path(name))
        folders = [sweep.run_dir(job).resolve() for job in sweep.jobs]
        return [folder for folder in folders if rundir.is_run(folder) or rundir.is_pipeline(folder)]
    return [rundir.find_pipeline(name) or rundir.require_run(name, f"ftcli runs compare {shell_word(name)}")]
