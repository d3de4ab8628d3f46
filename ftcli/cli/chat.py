"""`ftcli chat MODEL`: chat with a trained model; --base shows the answers of its base model beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from ftcli.cli import arguments, output
from ftcli.cli.generate import add_generation, request
from ftcli.launch.worker_request import exit_code, started

SUMMARY = "chat with a run or a model; --base shows before and after side by side"
ORDER = 80


def run(argv: Sequence[str]) -> int:
    """Pass lines of standard input to the model until it ends."""
    parser = arguments.parser("chat", __doc__ or "")
    add_generation(parser)
    options = arguments.parse(parser, argv)
    worker_request = request(options, "chat")
    if sys.stdin.isatty():
        output.note("loading … then one message per line; end with Ctrl-D")
    # The worker reads the terminal itself, so that its line editing works as usual.
    with started("chat", worker_request, stdin=sys.stdin, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1):
            sys.stdout.write(piece)
            sys.stdout.flush()
        return exit_code(process)
