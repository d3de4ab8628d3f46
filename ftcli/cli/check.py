"""`ftcli check`: every mistake in a recipe or command, at once, without running it."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.build.resolve import spec_of
from ftcli.cli import arguments, output, pipeline
from ftcli.core.errors import EXIT_DONE

SUMMARY = "find every mistake in a recipe or command without running it"
ORDER = 30


def run(argv: Sequence[str]) -> int:
    """Compose and check; says so when nothing is wrong."""
    parser = arguments.composing("check", __doc__ or "")
    options = arguments.parse(parser, argv)
    if pipeline.check(options):
        return EXIT_DONE
    spec = spec_of(arguments.request(options))
    if options.json:
        output.data({"problems": [], "choices": dict(spec.choices)})
    else:
        print("no problems: " + " ".join(f"{group}={choice}" for group, choice in spec.choices.items()))
    return EXIT_DONE
