"""`ftcli reproduce RECIPE`: run a locked recipe and compare tokens, ledger, metrics and weights with its lock."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE, EXIT_GATE
from ftcli.core.text import shell_word
from ftcli.runs import provenance, rundir

if TYPE_CHECKING:
    from ftcli.cli.jobs.locked import Held
    from ftcli.recipes.outcome import Comparison

SUMMARY = "run a locked recipe and compare what comes out with its lock"
ORDER = 15


def run(argv: Sequence[str]) -> int:
    """Train as the lock says and compare; exit code 9 where something differs beyond the bounds."""
    parser = arguments.parser("reproduce", __doc__ or "")
    parser.add_argument("recipe", help="a YAML file with its .lock beside it")
    parser.add_argument("overrides", nargs="*", metavar="run.dir=…|run.name=…", help="where the run goes")
    parser.add_argument("--run", metavar="RUN", help="compare this finished run or pipeline instead of training one")
    arguments.add_grants(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.cli.jobs import locked  # only here: help composes nothing
    from ftcli.cli.render.live_view import drawn

    where = f"ftcli reproduce {shell_word(options.recipe)}"
    overrides = (f"recipe={options.recipe}", *options.overrides)
    held = locked.job(overrides, arguments.granted(options), where)
    for each in held.other_packages:
        output.warn(f"{each}, so the result is compared within bounds")
    if options.run is not None:
        return _compare(options, held, _there(options.run, held, where))
    # With --json, stdout is for the comparison alone.
    with drawn(), contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        code = held.job.start(["reproduce", *argv], as_json=False)
    folder = held.folder
    if code != EXIT_DONE or rundir.read_result(folder) is None:  # a scheduler has it now
        if code == EXIT_DONE:
            again = f"ftcli reproduce {shell_word(options.recipe)} --run {shell_word(folder)}"
            output.note(f"{folder} is not finished yet; compare it then with {again}")
        return code
    return _compare(options, held, folder)


def _there(name: str, held: Held, where: str) -> Path:
    """The run, or of a locked pipeline the pipeline, that is there already.

    Raises:
        ConfigError: there is none.
    """
    if not held.lock.of_pipeline:
        return rundir.require_run(name, where)
    if (found := rundir.find_pipeline(name)) is None:
        fix = "name the folder that holds its pipeline.json"
        raise ConfigError(Problem(where, f"{name} is not a pipeline, and the lock is of one", fix))
    return found


def _compare(options: argparse.Namespace, held: Held, folder: Path) -> int:
    exact, found = held.compared(folder)
    differs = [each for each in found if each.state == "differs"]
    if options.json:
        told: dict[str, Any] = {"run": str(folder), "exact": exact, "reproduced": not differs}
        told["compared"] = [asdict(each) for each in found]
        output.data({**told, provenance.KEY: provenance.of_folder(folder)})
    else:
        _show(found, folder, exact=exact)
    return EXIT_GATE if differs else EXIT_DONE


def _show(found: Sequence[Comparison], folder: Path, *, exact: bool) -> None:
    from ftcli.recipes.outcome import LOSS_BOUND, SCORE_BOUND

    bounds = f"losses within {LOSS_BOUND:.0%}, scores within {SCORE_BOUND:g}, all else the same"
    output.say(f"{folder} beside the lock ({'bit for bit' if exact else bounds})")
    output.table([(each.what, each.state, _values(each)) for each in found])
    differs = [each.what for each in found if each.state == "differs"]
    output.say(f"not reproduced: {', '.join(differs)}" if differs else "reproduced")


def _values(each: Comparison) -> str:
    if isinstance(each.locked, (dict, str)):
        return ""
    return f"{each.locked}" if each.locked == each.now else f"{each.locked} → {each.now}"
