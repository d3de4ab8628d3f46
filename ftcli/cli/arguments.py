"""Flags that several commands share. Overrides stay text; `compose` parses them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ftcli.cli import output
from ftcli.config.compose import Request
from ftcli.config.shorthand import understood
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.plugins.plugin_loading import FLAG
from ftcli.settings.ownership import ALLOW_PATH, ENDPOINT, REMOTE_CODE, REWARD_CODE

GRANTS = {
    ALLOW_PATH: "allow a file to name paths outside its own folder, and files that DeepSpeed writes",
    REMOTE_CODE: "allow the model, an attention kernel or a container to run code that it ships",
    REWARD_CODE: "allow method.reward_functions to run your Python code",
    "--push-to-hub": "allow the run to upload to the hub",
    ENDPOINT: "allow addresses, judges and trackers that a file names to be sent rows and metrics, with a key of yours",
}

PLUGIN_HELP = "folder that adds methods, adapters, formats, rewards and profiles; its code runs (docs/extending.md)"

_MULTIRUN = {"-m", "--multirun"}
# Flags of Hydra that have no effect here; each is answered with one line.
NOT_HERE = {
    "--config-name": "ftcli has one root configuration; write a recipe and choose it with recipe=FILE",
    "--config-path": "add your own group files with --config-dir DIR",
    "--package": "a recipe cannot move groups; --cfg job prints the whole configuration",
    "--hydra-help": "see ftcli --help",
    "--experimental-rerun": "ftcli train --from RUN reproduces a run",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are Problems."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise ConfigError(Problem(self.prog, message, f"{self.prog} --help"))


def parser(command: str, description: str) -> Parser:
    """A parser for one command."""
    into = Parser(prog=f"ftcli {command}", description=description, allow_abbrev=False)
    # Read before any command is imported (ftcli/cli/__init__.py): what it adds has to be there when choices are listed.
    into.add_argument(FLAG, action="append", default=[], metavar="DIR", help=PLUGIN_HELP)
    return into


def add_json(into: argparse.ArgumentParser) -> None:
    """Add --json, the flag of every command that outputs data."""
    into.add_argument("--json", action="store_true", help="print JSON on stdout")


def add_trust(into: argparse.ArgumentParser, *further: str) -> None:
    """Add the grant of commands that only load a model, and further grants."""
    for flag in (REMOTE_CODE, *further):
        into.add_argument(flag, action="store_true", help=GRANTS[flag])


def add_grants(into: argparse.ArgumentParser) -> None:
    """Add every grant."""
    for flag, text in GRANTS.items():
        into.add_argument(flag, action="store_true", help=text)


def add_overrides(into: argparse.ArgumentParser) -> None:
    """Add overrides and the flags that go with them."""
    into.add_argument(
        "overrides",
        nargs="*",
        metavar="group=choice|key=value|FILE",
        help="recipe=NAME, method=dpo, seed=1, rows.jsonl, …",
    )
    into.add_argument(
        "--config-dir", "-cd", action="append", default=[], type=Path, help="folder with your own group files"
    )
    add_grants(into)
    for flag in NOT_HERE:
        into.add_argument(flag, nargs="?", const="", help=argparse.SUPPRESS)


def add_from(into: argparse.ArgumentParser) -> None:
    """Add --from, which starts from the configuration of a run."""
    what = "a new run with the configuration of RUN and the given overrides"
    into.add_argument("--from", dest="source", metavar="RUN", help=what)


def composing(command: str, description: str) -> Parser:
    """A parser for a command that composes a run and outputs data."""
    into = parser(command, description)
    add_overrides(into)
    add_json(into)
    return into


def parse(into: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse flags and overrides in any order.

    Raises:
        ConfigError: an unknown flag, or a flag of Hydra that has no meaning here, with the reason.
    """
    options, unknown = into.parse_known_intermixed_args(list(argv))
    if unknown:
        _refuse_unknown(into, list(argv), unknown, takes_settings="overrides" in options)
    for flag, reason in NOT_HERE.items():
        if getattr(options, flag.strip("-").replace("-", "_"), None) is not None:
            raise ConfigError(Problem(flag, "is not used by ftcli", reason))
    for folder in getattr(options, "config_dir", []):
        if not folder.is_dir():
            raise ConfigError(
                Problem(f"--config-dir {folder}", "is not a folder", "name one that holds method/, model/, …")
            )
    return options


def _refuse_unknown(
    into: argparse.ArgumentParser, argv: list[str], unknown: list[str], *, takes_settings: bool
) -> NoReturn:
    """Refuse unknown flags: each one that looks like a setting, `--learning_rate 1e-5`, with the way to write it."""
    flags = [word for word in argv if word.startswith("-") and word.partition("=")[0] in _flags_among(unknown)]
    if takes_settings and _MULTIRUN & _flags_among(unknown):
        what = "is a flag of ftcli train alone"
        raise ConfigError(Problem(f"{into.prog} -m", what, "ftcli train -m … --dry-run plans each job"))
    if not (takes_settings and flags):
        into.error(f"unrecognized arguments: {' '.join(unknown)}")
    from difflib import get_close_matches

    from ftcli.config.key_hints import exact_remedy, setting_for

    problems = []
    known = re.findall(r"(?<![\w-])--[a-z][\w-]*", into.format_help())
    for flag in dict.fromkeys(flags):
        name, equals, value = flag.lstrip("-").partition("=")
        following = argv[argv.index(flag) + 1 :][:1]
        near = get_close_matches(f"--{name.replace('_', '-')}", known, n=1, cutoff=0.8)
        if exact_remedy(name) is not None:  # a setting, however much it looks like a flag
            near = []
        hint = setting_for(name, None)
        if near or hint is None:
            fix = f"did you mean {near[0]}?" if near else f"{into.prog} --help"
            problems.append(Problem(into.prog, f"unrecognized arguments: {flag}", fix))
            continue
        if not equals and following and not following[0].startswith("--") and "=" not in following[0]:
            value, flag = following[0], f"{flag} {following[0]}"
        what = "is no flag: settings are written key=value, without dashes"
        problems.append(Problem(flag, what, setting_for(name, value or None) or ""))
    raise ConfigError(*problems)


def _flags_among(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("-")}


def overrides(options: argparse.Namespace, *, tell: bool = True) -> list[str]:
    """The overrides that the words of a command stand for; with `tell`, what a word was taken for is printed.

    Raises:
        ConfigError: a word can mean two things.
    """
    found = understood(options.overrides, tuple(options.config_dir))
    for line in found.notes if tell else ():
        output.note(line)
    return list(found.overrides)


def request(options: argparse.Namespace, *, tell: bool = True) -> Request:
    """The request that parsed options describe.

    Args:
        tell: print what each word was taken for that is no override; not where a command's own output says so.

    Raises:
        ConfigError: a word can mean two things.
    """
    return Request(
        overrides=tuple(overrides(options, tell=tell)),
        config_dirs=tuple(folder.resolve() for folder in options.config_dir),
        grants=granted(options),
    )


def granted(options: argparse.Namespace) -> frozenset[str]:
    """The grants among parsed options."""
    return frozenset(flag for flag in GRANTS if getattr(options, flag.strip("-").replace("-", "_")))
