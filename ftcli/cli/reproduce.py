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
from ftcli.core.exit_codes import EXIT_DONE, EXIT_GATE
from ftcli.core.text import shell_word
from ftcli.runs import provenance, rundir

if TYPE_CHECKING:
    from ftcli.recipes.outcome import Comparison
    from ftcli.recipes.recipe_lock import Lock
    from ftcli.settings.run_spec import RunSpec

SUMMARY = "run a locked recipe and compare what comes out with its lock"
ORDER = 15


def run(argv: Sequence[str]) -> int:
    """Train as the lock says and compare; exit code 9 where something differs beyond the bounds."""
    parser = arguments.parser("reproduce", __doc__ or "")
    parser.add_argument("recipe", help="a YAML file with its .lock beside it")
    parser.add_argument("overrides", nargs="*", metavar="run.dir=…|run.name=…", help="where the run goes")
    parser.add_argument("--run", metavar="RUN", help="compare this finished run instead of training one")
    arguments.add_grants(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    from ftcli.cli.jobs import locked  # only here: help composes nothing

    where = f"ftcli reproduce {shell_word(options.recipe)}"
    overrides = (f"recipe={options.recipe}", *options.overrides)
    held = locked.job(overrides, arguments.granted(options), where)
    for each in held.other_packages:
        output.warn(f"{each}, so the result is compared within bounds")
    if options.run is not None:
        return _compare(options, held.lock, held.spec, rundir.require_run(options.run, where))
    # With --json, stdout is for the comparison alone.
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        code = held.job.start(["reproduce", *argv], as_json=False)
    folder = Path(str(held.spec.run.dir))
    if code != EXIT_DONE or rundir.read_result(folder) is None:  # a scheduler has it now
        if code == EXIT_DONE:
            again = f"ftcli reproduce {shell_word(options.recipe)} --run {shell_word(folder)}"
            output.note(f"{folder} is not finished yet; compare it then with {again}")
        return code
    return _compare(options, held.lock, held.spec, folder)


def _compare(options: argparse.Namespace, lock: Lock, spec: RunSpec, folder: Path) -> int:
    from ftcli.recipes import locking, outcome

    exact = locking.same_bits(spec, lock)
    found = outcome.compared(lock.outcome, outcome.of_run(folder), exact=exact)
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
