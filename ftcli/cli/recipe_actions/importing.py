"""`ftcli recipe import FILE`: a recipe from a configuration of LLaMA-Factory, Axolotl, ms-swift, TRL, the alignment
handbook or torchtune, and an account of every key of it. Nothing of the file is run, and nothing is overwritten.

`--prove` runs the other tool, where it is at hand, on the same rows, and compares tokens row by row (exit code 9 where
they differ). It installs nothing, and that tool is given a copy of the rows and of the tokenizer, and no network where
the system lets ftcli take it away."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ftcli.cli import arguments, output
from ftcli.cli.render import imported as render
from ftcli.cli.render import proved
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE, EXIT_GATE
from ftcli.core.paths import home_expanded
from ftcli.core.text import shell_word
from ftcli.settings.ownership import ALLOW_PATH

if TYPE_CHECKING:
    from ftcli.cli.jobs.imported import Imported
    from ftcli.proofs.proof import Proof

NAME = "import"
SUMMARY = "a recipe from another tool's configuration, with an account of every key"
ORDER = 60


DEFAULT_ROWS = 200
"""Rows of each set that a proof compares."""


def run(argv: Sequence[str]) -> int:
    """Print or write the recipe, and print the account: on stdout beside --to, else on stderr."""
    from ftcli.cli.jobs.imported import imported  # only here: help needs no checks

    options = _parse(argv)
    target = home_expanded(options.to) if options.to else None
    if target is not None:
        _require_new(target, options.to)
    folder = target.parent if target is not None else Path.cwd()
    found = imported(options.file, options.tool, folder)
    recipe = found.conversion.recipe_at(folder)
    if target is not None:
        _write(target, recipe, options.to)
    if not options.json:
        _show(found, recipe, options.to)
    proof, code = _proved(found, options, folder) if options.prove else (None, EXIT_DONE)
    if options.json:
        plain = {**render.data(found.conversion), "recipe": recipe, "written_to": options.to}
        plain |= {"proof": proved.data(proof)} if proof else {}
        output.data({**plain, "problems": [asdict(each) for each in found.problems]})
    elif proof is not None:
        output.say()
        output.lines(proved.lines(proof))
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    from ftcli.config.conversion import TOOLS

    parser = arguments.parser("recipe import", __doc__ or "")
    parser.add_argument("file", nargs="?", help="a .yaml, .yml or .json file, or a .sh file with the command line")
    parser.add_argument("--from", dest="tool", choices=TOOLS, help="the tool it is of; without it, it is recognised")
    parser.add_argument("--to", metavar="FILE", help="write the recipe to this file, which must not exist")
    parser.add_argument("--prove", action="store_true", help="run the other tool, and compare its tokens with ours")
    parser.add_argument("--peer-python", metavar="PYTHON", help="--prove: the python that has the other tool")
    parser.add_argument("--rows", type=int, metavar="N", help=f"--prove: rows of each set (default {DEFAULT_ROWS})")
    allows = "--prove: read rows and a tokenizer that the file names outside the recipe's folder"
    parser.add_argument(ALLOW_PATH, action="store_true", help=allows)
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.file is None:
        parser.error("recipe import needs a file of another tool")
    given = {
        f"--peer-python {shell_word(options.peer_python)}": options.peer_python,
        f"--rows {options.rows}": options.rows,
        ALLOW_PATH: options.allow_path or None,
    }
    for flag, value in given.items():
        if value is not None and not options.prove:
            raise ConfigError(Problem(flag, "has no effect without --prove", "add --prove"))
    if options.rows is not None and options.rows < 1:
        raise ConfigError(Problem(f"--rows {options.rows}", "is out of range", "at least 1"))
    return options


def _show(found: Imported, recipe: str, written_to: str | None) -> None:
    if written_to is None:
        output.text(recipe, end="")
        output.notes("\n".join(render.lines(found.conversion, found.problems)))
        return
    output.lines(render.lines(found.conversion, found.problems))
    output.say()
    output.say(f"written: {written_to}; check it with ftcli check {shell_word(f'recipe={written_to}')}")


def _proved(found: Imported, options: argparse.Namespace, folder: Path) -> tuple[Proof | None, int]:
    """What comparing tokens came to, and its exit code; None where the worker has said what is wrong."""
    from ftcli.launch.worker_request import WorkerFailed
    from ftcli.proofs.proof import prove

    far = found.conversion.outside(folder)
    if far and not options.allow_path:
        what = f"the file names what lies outside the recipe's folder: {', '.join(far[:3])}"
        raise ConfigError(Problem("--prove", what, f"allow it with {ALLOW_PATH}, or copy it beside the recipe"))
    try:
        proof = prove(found.conversion, options.peer_python, options.rows or DEFAULT_ROWS)
    except WorkerFailed as failed:
        return None, failed.code
    return proof, EXIT_DONE if proof.equal else EXIT_GATE


def _require_new(target: Path, shown: str) -> None:
    where = f"--to {shell_word(shown)}"
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(Problem(where, "is no name of a recipe", "let it end in .yaml"))
    if os.path.lexists(target):
        raise ConfigError(Problem(where, f"{shown} exists, and nothing is overwritten", "name a new file"))
    if not target.parent.is_dir():
        raise ConfigError(Problem(where, f"there is no folder {target.parent}", "make it first"))


def _write(target: Path, recipe: str, shown: str) -> None:
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(recipe)
    except OSError as error:
        where = f"--to {shell_word(shown)}"
        raise ConfigError(Problem(where, f"cannot be written: {error.strerror}", "name another file")) from None
