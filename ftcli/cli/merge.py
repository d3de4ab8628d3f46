"""`ftcli merge RUN…`: merge trained adapters into their base model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.cli import arguments, output
from ftcli.cli.render.differences import difference_rows
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.data.files.locate import SourcePath, is_local, locate
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models import sources
from ftcli.models.export import combining
from ftcli.peft_methods import why_unmerged
from ftcli.runs import provenance, rundir

SUMMARY = "merge trained adapters into their base model, and measure what that changed"
ORDER = 120


def run(argv: Sequence[str]) -> int:
    """Merge, and print the folder of the merged model and how far it is from what was trained."""
    options = _options(argv)
    where = f"ftcli merge {' '.join(map(shell_word, options.runs))}"
    combined = _combination(options, where)
    folders = [_adapter(name, where) for name in options.runs]
    target = options.to or _beside(folders[0])
    if os.path.lexists(target):
        raise ConfigError(Problem(where, f"{target} already exists", "remove it, or name another folder with --to"))
    for name in options.runs:
        if (found := rundir.find_run(name)) is not None:
            gate.opened(found)
    request = {
        "models": [str(folder) for folder in folders],
        "to": str(target.resolve()),
        "dtype": options.dtype,
        "base": options.base,
        "combination": combined,
        "rows": options.rows,
        "data": _data(options.data),
        "trust_remote_code": options.trust_remote_code,
    }
    try:
        [answer] = answers("merge", request)
    except WorkerFailed as failed:
        return failed.code
    if options.json:
        output.data({**answer, **_provenance(folders[0])})
        return EXIT_DONE
    _print(answer, options.runs, combined)
    return EXIT_DONE


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = arguments.parser("merge", __doc__ or "")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run (directory or name) or an adapter folder")
    parser.add_argument("--to", type=Path, help="folder to write (default: RUN/merged)")
    choices = ("auto", "float32", "bfloat16", "float16")
    what = "type of the weights (default: that of the base model); the sums are made in float32 and rounded once"
    parser.add_argument("--dtype", choices=choices, default="auto", help=what)
    what = "the base as it is stored (default), or as a quantised run saw it, turned back into plain weights"
    parser.add_argument("--base", choices=("stored", "dequantised"), default="stored", help=what)
    what = "how several LoRA adapters are combined (default: linear, the sum of their updates by --weights)"
    parser.add_argument("--how", choices=tuple(combining.WAYS), help=what)
    what = "a number for each adapter, as 0.7,0.3 (default: equal shares; 1 each for ties and dare_ties)"
    parser.add_argument("--weights", metavar="W,W,…", help=what)
    what = f"share of each adapter that ties and dare keep (default: {combining.DENSITY})"
    parser.add_argument("--density", type=float, help=what)
    parser.add_argument("--rows", type=int, default=32, help="rows to measure the difference on (default: 32)")
    parser.add_argument("--data", help="rows to measure it on (default: those that the run held out)")
    arguments.add_trust(parser)
    arguments.add_json(parser)
    return arguments.parse(parser, argv)


def _combination(options: argparse.Namespace, where: str) -> dict[str, Any] | None:
    """How several adapters are combined; None for one.

    Raises:
        ConfigError: a flag has no effect, or a value that it cannot have.
    """
    count, problems = len(options.runs), list[Problem]()
    if options.rows < 1:
        raise ConfigError(Problem(f"--rows {options.rows}", "is out of range", "at least 1"))
    if count == 1:
        flags = {"--how": options.how, "--weights": options.weights, "--density": options.density}
        if given := [flag for flag, value in flags.items() if value is not None]:
            what = f"{' and '.join(given)} without effect: one adapter is merged as it is"
            raise ConfigError(Problem(where, what, "name several runs, or leave it out"))
        return None
    how = options.how or "linear"
    if options.density is not None and how not in combining.PRUNING:
        problems.append(Problem(f"--density {options.density}", f"has no effect with --how {how}", "leave it out"))
    elif options.density is not None and not 0 < options.density <= 1:
        problems.append(Problem(f"--density {options.density}", "is out of range", "above 0, at most 1"))
    try:
        weights = [float(word) for word in options.weights.split(",")] if options.weights is not None else []
    except ValueError:
        weights = [float("nan")]
    if options.weights is not None and (len(weights) != count or not all(abs(each) < 1e6 for each in weights)):
        fix = f"{count} numbers, in the order of the runs, as {','.join(['0.5'] * count)}"
        problems.append(Problem(f"--weights {options.weights}", f"is not a number for each of {count} runs", fix))
    if options.to is None:
        problems.append(Problem(where, "names several runs, and no folder for their model", "name one with --to"))
    if problems:
        raise ConfigError(*problems)
    made = combining.combination(how, count, weights, options.density)
    return {"how": made.how, "weights": list(made.weights), "density": made.density}


def _data(path: str | None) -> str | None:
    """The value of --data, checked to exist; a local path is made absolute."""
    if path is None:
        return None
    locate(SourcePath(path=path), f"--data {path}", fetch=True)
    return os.path.realpath(os.path.expanduser(path)) if is_local(path) else path


def _adapter(name: str, where: str) -> Path:
    """The folder of the adapter.

    Raises:
        ConfigError: there is none, or it cannot be merged.
    """
    source = sources.model_source(name)
    if source is None or source.folder is None:
        raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run or an adapter folder"))
    if not source.is_adapter:
        what = f"{name} holds a full model, not an adapter"
        raise ConfigError(Problem(where, what, f"use {source.folder} as it is"))
    for kind in sources.adapter_kinds(source):
        if reason := why_unmerged(kind):
            what = f"a {kind} adapter cannot be merged: {reason}"
            raise ConfigError(Problem(where, what, f"ftcli chat {shell_word(name)} serves it on its base"))
    return source.folder


def _print(answer: Mapping[str, Any], runs: Sequence[str], combination: Mapping[str, Any] | None) -> None:
    rows = [("model", str(answer["model"])), ("dtype", str(answer["dtype"]))]
    if combination is not None:
        kept = f", density {combination['density']:g}" if combination["density"] is not None else ""
        shares = ", ".join(f"{weight:g}" for weight in combination["weights"])
        rows.append(("combined", f"{combination['how']}, weights {shares}{kept}"))
    output.table(rows)
    several = len(answer["differences"]) > 1
    for name, each in zip(runs, answer["differences"], strict=True):
        output.say(f"compared with {name if several else 'the model as it was trained'}, in {answer['dtype']}")
        output.table(difference_rows(each), indent="    ")
        if each["why"]:
            output.note(f"on ordinary text: {each['why']}; --data FILE measures on rows of yours")
    output.say("next")
    output.say(f"  ftcli chat {shell_word(answer['model'])}")


def _provenance(folder: Path) -> dict[str, Any]:
    own = provenance.of_model(str(folder))
    return {provenance.KEY: own} if own is not None else {}


def _beside(folder: Path) -> Path:
    own = folder.name == rundir.MODEL and rundir.is_run(folder.parent)
    return folder.parent / "merged" if own else folder.with_name(f"{folder.name}-merged")
