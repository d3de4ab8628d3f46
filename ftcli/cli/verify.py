"""`ftcli verify RUN|FOLDER`: whether a run, pipeline, stage, model folder or checkpoint is whole.

`ftcli verify RUN --at URL|FILE.gguf|Modelfile|FOLDER`: whether what is served of a run is what was trained. The run's
held-out prompts are replayed there, and tokens, end tokens, answers and log-probabilities are compared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.core.exit_codes import EXIT_CHECKPOINT, EXIT_DONE, EXIT_GATE
from ftcli.core.text import shell_word
from ftcli.runs import provenance, rundir
from ftcli.settings.ownership import ALLOW_PATH

if TYPE_CHECKING:
    from ftcli.build.verification import Verdict

SUMMARY = "check that a run or model is whole, digest by digest; --at, that what is served is what was trained"
ORDER = 155
_ONLY_AT = {
    "name": "--as",
    "key_env": "--key-env",
    "rows": "--rows",
    "max_new_tokens": "--max-new-tokens",
    "data": "--data",
}
_ROWS, _MAX_NEW_TOKENS = 16, 64


def run(argv: Sequence[str]) -> int:
    """Print a verdict on each file and folder, or with --at on each part of what is served; exit code 5 where a file is
    damaged or missing, 9 where what is served differs."""
    options = _options(argv)
    return _whole(options) if options.at is None else _served(options)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments.parser("verify", __doc__ or "")
    parser.add_argument("folder", metavar="RUN|FOLDER", help="a run's name or directory, or another folder of ftcli's")
    parser.add_argument("--at", metavar="URL|FILE", help="a server's address, a GGUF, a Modelfile or a model folder")
    parser.add_argument("--as", dest="name", metavar="NAME", help="the model's name at that server (its only one)")
    parser.add_argument("--key-env", metavar="NAME", help="the environment variable with the server's API key")
    parser.add_argument("--rows", type=int, metavar="N", help=f"how many held-out prompts are replayed ({_ROWS})")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=f"longest answer, in tokens ({_MAX_NEW_TOKENS})"
    )
    parser.add_argument("--data", metavar="FILE", help="rows with other prompts (default: the run's held-out rows)")
    arguments.add_trust(parser, ALLOW_PATH)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    for name, flag in _ONLY_AT.items():
        value = getattr(options, name)
        if options.at is None and value is not None:
            raise ConfigError(Problem(flag, "has an effect only together with --at", "name what is served with --at"))
        if isinstance(value, int) and not 1 <= value <= 4096:
            raise ConfigError(Problem(f"{flag} {value}", "is out of range", "from 1 to 4096"))
    return options


def _whole(options: argparse.Namespace) -> int:
    from ftcli.build.verification import kind_of, verdicts  # only here: help needs none of the checks

    place = _place(options.folder)
    kind = kind_of(place)
    if kind is None:
        what = f"{options.folder} holds no run, pipeline, stage, model or checkpoint"
        raise ConfigError(Problem(f"ftcli verify {shell_word(options.folder)}", what, "name such a folder, or a run"))
    if not options.json:
        output.say(f"{kind} {place}")
    found = _shown(verdicts(place), options)  # as they come: every byte of a large run takes a while
    faults = [each for each in found if each.state == "fault"]
    if options.json:
        whole = {"folder": str(place), "kind": kind, "whole": not faults, "verdicts": [asdict(x) for x in found]}
        output.data({**whole, **_provenance(place)})
    else:
        output.say(f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "whole")
    return EXIT_CHECKPOINT if faults else EXIT_DONE


def _served(options: argparse.Namespace) -> int:
    """Compare what is served with the run."""
    from ftcli.build import gate
    from ftcli.launch.worker_request import WorkerFailed
    from ftcli.methods import get_method
    from ftcli.serving.replaying import compared, target_of

    where = f"ftcli verify {shell_word(options.folder)} --at {shell_word(options.at)}"
    run = rundir.require_run(options.folder, where)
    spec = gate.opened(run)
    if get_method(str(spec.method["name"])).head != "causal_lm":
        what = f"{options.folder} is a reward model, which answers no prompts"
        raise ConfigError(Problem(where, what, f"check its files: ftcli verify {shell_word(options.folder)}"))
    if not (run / rundir.MODEL).is_dir():
        fix = f"ftcli train --resume {shell_word(rundir.whole(run))}"
        raise ConfigError(Problem(where, f"{options.folder} has no trained model yet", fix))
    key = _key(options.key_env, where)
    target = target_of(options.at, where, name=options.name, key=key, granted=options.allow_path)
    request = {
        "rows": options.rows or _ROWS,
        "max_new_tokens": options.max_new_tokens or _MAX_NEW_TOKENS,
        "data": os.path.realpath(options.data) if options.data else None,
        "trust_remote_code": options.trust_remote_code,
    }
    if not options.json:
        output.say(f"{target.kind} {target.place}")
    try:
        found = _shown(compared(run, target, request), options)
    except WorkerFailed as failed:
        return failed.code
    faults = [each for each in found if each.state == "fault"]
    if options.json:
        served = {"run": str(run), "at": target.place, "kind": target.kind, "as_trained": not faults}
        output.data({**served, "verdicts": [asdict(each) for each in found], **_provenance(run)})
    else:
        output.say(f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "served as trained")
    return EXIT_GATE if faults else EXIT_DONE


def _key(variable: str | None, where: str) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key or not key.isprintable():
        raise ConfigError(Problem(where, f"{variable}, which is to hold the API key, is not set", f"export {variable}"))
    return key


def _shown(verdicts: Iterable[Verdict], options: argparse.Namespace) -> list[Verdict]:
    found = []
    for each in verdicts:
        found.append(each)
        if not options.json:
            _show(each)
    return found


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
