"""`ftcli advise data.path=FILE [model=…] [hardware.gpu=24GiB] [--goal …] [--hours 3]`: up to three ways to train on
these rows, each as a recipe that was checked and planned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word

SUMMARY = "advise on a method for your rows, goal and card: up to three ways, each a recipe"
ORDER = 6


def run(argv: Sequence[str]) -> int:
    """Print the ways, best first."""
    parser = parser_of("advise", __doc__ or "")
    parser.add_argument(
        "--measure", action="store_true", help="run twenty steps of each way here, in place of estimates"
    )
    options = arguments.parse(parser, argv)
    from ftcli.advise.ranking import advised  # only here: help needs no rules
    from ftcli.advise.wanted import wanted
    from ftcli.cli.render.advice import show

    request = arguments.request(options, tell=not options.json)
    if options.measure and any(word.startswith("hardware.gpu=") for word in request.overrides):
        what = "runs on this machine, and hardware.gpu plans for a card that may be elsewhere"
        raise ConfigError(Problem("--measure", what, "leave out one of them"))
    asked = wanted(request, goal=options.goal, hours=options.hours)
    advice = advised(asked, output.note)
    measured = {}
    if options.measure:
        from ftcli.cli.jobs.twenty_steps import measured_way

        for number, way in enumerate(advice.ways, 1):
            output.note(f"measuring way {number} of {len(advice.ways)}: {way.name}")
            measured[number] = measured_way(way)
    show(advice, typed_again(argv), measured, as_json=options.json)
    return EXIT_DONE


def parser_of(command: str, description: str) -> arguments.Parser:
    """The arguments that advice and its first recipe share."""
    parser = arguments.composing(command, description)
    goals = "domain, task, assistant, preferences, checkable or principles, or a description that it is guessed from"
    parser.add_argument("--goal", help=goals)
    parser.add_argument("--hours", type=float, help="the longest that the training steps may take")
    return parser


def typed_again(argv: Sequence[str]) -> str:
    """The words of a command, without those that only say how it answers."""
    return " ".join(shell_word(word) for word in argv if word not in ("--json", "--measure"))


def numbered(parser: argparse.ArgumentParser) -> None:
    """Add the number of a way."""
    parser.add_argument("--way", type=int, default=1, metavar="N", help="the way to write, as advise numbers them (1)")
