"""`ftcli merge RUN`: fold a trained adapter into its base, as one plain model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models import sources
from ftcli.peft_methods import why_unmerged
from ftcli.runs import rundir

SUMMARY = "fold a trained adapter into its base, as one plain model"
ORDER = 120


def run(argv: Sequence[str]) -> int:
    """Merge, and say where the model is."""
    parser = arguments.parser("merge", __doc__ or "")
    parser.add_argument("run", help="a run (directory or name) or an adapter folder")
    parser.add_argument("--to", type=Path, help="folder to write (RUN/merged)")
    choices = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=choices, default="auto", help="type of the weights (as the base is stored)")
    arguments.add_trust(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    folder = _adapter(options.run)
    target = options.to or _beside(folder)
    if target.exists():
        where = f"ftcli merge {options.run}"
        raise ConfigError(Problem(where, f"{target} is there already", "remove it, or name another folder with --to"))
    request = {
        "model": str(folder),
        "to": str(target.resolve()),
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
    }
    try:
        [answer] = answers("merge", request)
    except WorkerFailed as failed:
        return failed.code
    if options.json:
        output.data(answer)
        return EXIT_DONE
    output.table(
        [
            ("model", str(answer["model"])),
            ("dtype", str(answer["dtype"])),
            ("difference", f"{answer['largest_difference']:.2g} at most in a logit"),
        ]
    )
    print(f"next\n  ftcli chat {answer['model']}")
    return EXIT_DONE


def _adapter(name: str) -> Path:
    """The folder of the adapter.

    Raises:
        ConfigError: there is none, or one that cannot be merged.
    """
    where, source = f"ftcli merge {name}", sources.model_source(name)
    if source is None or source.folder is None:
        raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run or an adapter folder"))
    if not source.is_adapter:
        what = f"{name} holds a whole model, with nothing to merge"
        raise ConfigError(Problem(where, what, f"use {source.folder} as it is"))
    for kind in sources.adapter_kinds(source):
        if reason := why_unmerged(kind):
            what = f"a {kind} adapter cannot be merged: {reason}"
            raise ConfigError(Problem(where, what, f"ftcli chat {name} serves it on its base"))
    return source.folder


def _beside(folder: Path) -> Path:
    own = folder.name == rundir.MODEL and rundir.is_run(folder.parent)
    return folder.parent / "merged" if own else folder.with_name(f"{folder.name}-merged")
