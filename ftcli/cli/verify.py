"""`ftcli verify RUN|FOLDER`: whether a run, pipeline, stage, model folder or checkpoint is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.core.exit_codes import EXIT_CHECKPOINT, EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import provenance, rundir

if TYPE_CHECKING:
    from ftcli.build.verification import Verdict

SUMMARY = "check that a run, pipeline, model or checkpoint is whole, digest by digest"
ORDER = 155


def run(argv: Sequence[str]) -> int:
    """Print a verdict on each file and folder; exit code 5 where one is damaged or missing."""
    from ftcli.build.verification import kind_of, verdicts  # only here: help needs none of the checks

    parser = arguments.parser("verify", __doc__ or "")
    parser.add_argument("folder", metavar="RUN|FOLDER", help="a run's name or directory, or another folder of ftcli's")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    place = _place(options.folder)
    kind = kind_of(place)
    if kind is None:
        what = f"{options.folder} holds no run, pipeline, stage, model or checkpoint"
        raise ConfigError(Problem(f"ftcli verify {shell_word(options.folder)}", what, "name such a folder, or a run"))
    if not options.json:
        output.say(f"{kind} {place}")
    found = []
    for each in verdicts(place):  # printed as they come: every byte of a large run takes a while
        found.append(each)
        if not options.json:
            _show(each)
    faults = [each for each in found if each.state == "fault"]
    if options.json:
        whole = {"folder": str(place), "kind": kind, "whole": not faults, "verdicts": [asdict(x) for x in found]}
        output.data({**whole, **_provenance(place)})
    else:
        output.say(f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "whole")
    return EXIT_CHECKPOINT if faults else EXIT_DONE


def _provenance(place: Path) -> dict[str, Any]:
    """That of the run; nothing for another folder, and for one whose files are too damaged to say it."""
    if not (rundir.is_run(place) or rundir.is_pipeline(place)):
        return {}
    try:
        return {provenance.KEY: provenance.of_folder(place)}
    except FtcliError:
        return {}


def _show(verdict: Verdict) -> None:
    output.say(f"  {verdict.state:<5}  {verdict.what}" + (f"  {verdict.detail}" if verdict.detail else ""))
    if verdict.fix and verdict.state == "fault":
        output.say(f"           fix: {verdict.fix}")


def _place(name: str) -> Path:
    """The folder that a word names: itself, or the newest run of that name."""
    from ftcli.build.verification import kind_of

    path = Path(name)
    if path.is_symlink() or path.exists():
        path = path.absolute()  # not resolved: a checkpoint that is a link is told as one
        if kind_of(path) is not None:
            return path
    return rundir.find_pipeline(name) or rundir.require_run(name, f"ftcli verify {shell_word(name)}")
