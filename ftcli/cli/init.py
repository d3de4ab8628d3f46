"""`ftcli init data.path=FILE [model=…] [hardware.gpu=24GiB] [--goal …]`: write the recipe that `ftcli advise` puts
first, commented, into this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import advise, arguments, jobs, output
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "write the recipe that advise puts first, commented, into this folder"
ORDER = 8


def run(argv: Sequence[str]) -> int:
    """Write the recipe, check what was written, and print the commands that use it."""
    parser = advise.parser_of("init", __doc__ or "")
    advise.numbered(parser)
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="the recipe's file; by itself METHOD-ADAPTER-MODEL.yaml"
    )
    options = arguments.parse(parser, argv)
    from ftcli.advise.ranking import advised
    from ftcli.advise.wanted import wanted

    if options.to is not None:
        _require_new(options.to, f"ftcli init --to {shell_word(options.to)}")
    request = arguments.request(options, tell=not options.json)
    asked = wanted(request, goal=options.goal, hours=options.hours)
    ways = advised(asked, output.note).ways
    if not 1 <= options.way <= len(ways):
        what = f"there {'is one way' if len(ways) == 1 else f'are {len(ways)} ways'}"
        raise ConfigError(Problem(f"--way {options.way}", what, "ftcli advise shows them"))
    way = ways[options.way - 1]
    file: Path = options.to or Path(f"{way.name}.yaml")
    _require_new(file, "ftcli init")
    folder = str(file.absolute().parent)
    _write(file, way.recipe(folder, str(file)))
    words = (f"recipe={file}", *way.overrides(folder), *asked.planned_for)
    try:
        again = Request(overrides=words, config_dirs=request.config_dirs, grants=request.grants | {*way.grants})
        jobs.resolve(again)  # as it was written, its paths too
    except BaseException:
        file.unlink()
        raise
    commands = [way.command(name, str(file), folder) for name in ("check", "plan", "train")]
    if options.json:
        output.data({"file": str(file), "overrides": list(way.overrides(folder)), "next": commands})
    else:
        output.say(f"written {file}: method={way.method.method} peft={way.adapter.adapter} model={way.model}")
        output.lines(f"  {command}" for command in commands)
    return EXIT_DONE


def _require_new(file: Path, where: str) -> None:
    """Refuse a file that exists, or a name that is no recipe's.

    Raises:
        ConfigError: it is one of these.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(Problem(where, "is no name of a recipe", "let it end in .yaml"))
    if file.exists() or file.is_symlink():
        raise ConfigError(Problem(where, f"{file} exists already", "remove it, or name another file with --to FILE"))
    if not file.absolute().parent.is_dir():
        raise ConfigError(Problem(where, "its folder does not exist", "create the folder first"))


def _write(file: Path, text: str) -> None:
    """Write a file that does not exist.

    Raises:
        ConfigError: it does, or cannot be written.
    """
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise ConfigError(Problem(f"ftcli init: {file}", what, "name another file with --to FILE")) from None
