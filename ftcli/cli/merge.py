"""`ftcli merge RUN`: merge a trained adapter into its base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models import sources
from ftcli.peft_methods import why_unmerged
from ftcli.runs import provenance, rundir

SUMMARY = "merge a trained adapter into its base model"
ORDER = 120


def run(argv: Sequence[str]) -> int:
    """Merge, and print the folder of the merged model."""
    parser = arguments.parser("merge", __doc__ or "")
    parser.add_argument("run", help="a run (directory or name) or an adapter folder")
    parser.add_argument("--to", type=Path, help="folder to write (default: RUN/merged)")
    choices = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument(
        "--dtype", choices=choices, default="auto", help="dtype of the weights (default: that of the base model)"
    )
    arguments.add_trust(parser)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    folder = _adapter(options.run)
    target = options.to or _beside(folder)
    if target.exists():
        where = f"ftcli merge {options.run}"
        raise ConfigError(Problem(where, f"{target} already exists", "remove it, or name another folder with --to"))
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
        output.data({**answer, **_provenance(folder)})
        return EXIT_DONE
    difference = f"at most {answer['largest_difference']:.2g} in any logit of a line of text"
    if answer["same_next"] is not None:
        difference += f"; the likeliest next token is the same for {answer['same_next']} of {answer['tokens']}"
    output.table([("model", str(answer["model"])), ("dtype", str(answer["dtype"])), ("difference", difference)])
    output.text(f"next\n  ftcli chat {shell_word(answer['model'])}")
    return EXIT_DONE


def _adapter(name: str) -> Path:
    """The folder of the adapter.

    Raises:
        ConfigError: there is none, or it cannot be merged.
    """
    where, source = f"ftcli merge {shell_word(name)}", sources.model_source(name)
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


def _provenance(folder: Path) -> dict[str, Any]:
    own = provenance.of_model(str(folder))
    return {provenance.KEY: own} if own is not None else {}


def _beside(folder: Path) -> Path:
    own = folder.name == rundir.MODEL and rundir.is_run(folder.parent)
    return folder.parent / "merged" if own else folder.with_name(f"{folder.name}-merged")
