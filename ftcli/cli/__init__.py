"""The command line: `ftcli COMMAND [group=choice] [key=value] [--flag]`. The only room that prints or exits.

Each command is a module of its own, imported when it is called, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence

from ftcli.core.errors import EXIT_BUG, EXIT_CONFIG, EXIT_DONE, FtcliError, Problem

# Command: (module, one line).
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "train a model; --dry-run plans only, --resume RUN goes on, --from RUN reproduces"),
    "plan": ("plan", "what a run will be: steps, tokens, parameters, memory, warnings"),
    "check": ("check", "find every mistake in a recipe or command without running it"),
    "show": ("show", "the composed configuration, or the knobs of a group (ftcli show peft peft=lora)"),
    "list": ("listing", "groups and their choices, recipes, data formats: one line each"),
    "doctor": ("doctor", "what this machine can do"),
    "eval": ("evaluate", "held-out loss and score of a run, before and after training"),
    "chat": ("chat", "talk to a run or a model; --base shows before and after side by side"),
    "generate": ("generate", "answers of a run or a model to prompts from arguments, a file or stdin"),
    "score": ("score", "score the rows of a file by a reward model; rank, filter or keep the best"),
    "sample": ("sample", "sample answers to the prompts of a file; keep the best, or best and worst as pairs"),
    "merge": ("merge", "fold a trained adapter into its base, as one plain model"),
    "data": ("data", "check, preview or prepare the rows of a run: faults, findings, tokens"),
    "recipe": ("recipe", "list and print the shipped recipes"),
    "report": ("report", "what a run did: loss, score, tokens, time"),
    "completion": ("completion", "print the completion script for bash, zsh or fish"),
}


def usage() -> str:
    """The text of `ftcli --help`."""
    rows = "\n".join(f"  {name:<11} {line}" for name, (_, line) in COMMANDS.items())
    return f"""ftcli: fine-tuning of language models, from a YAML recipe to a trained model

usage: ftcli COMMAND [group=choice] [key=value] [--flag]

{rows}

groups: method model data peft quantisation hardware train   (ftcli list GROUP shows the choices)
try:    ftcli train recipe=demo
        ftcli train method=dpo model=llama peft=lora data.path=pairs.jsonl
        ftcli COMMAND --help
"""


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return EXIT_DONE if arguments else EXIT_CONFIG
    if arguments[0] in ("-V", "--version"):
        from ftcli import __version__

        print(f"ftcli {__version__}")
        return EXIT_DONE
    if arguments[0] in ("-sc", "--shell-completion"):  # Hydra's spelling: -sc install=bash
        shell = arguments[1].rpartition("=")[2] if len(arguments) > 1 else "bash"
        arguments = ["completion", shell]
    name, *rest = arguments
    if name not in COMMANDS:
        from ftcli.core.suggest import suggest

        where = f"ftcli {name}"
        if "=" in name:
            raise FtcliError(Problem(where, "a command comes first", f"ftcli train {' '.join(arguments)}"))
        raise FtcliError(Problem(where, f"{name} is not a command", suggest(name, COMMANDS, "ftcli ")))
    result: int = importlib.import_module(f"ftcli.cli.{COMMANDS[name][0]}").run(rest)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (our bug), 2 (configuration), 3 (data), 75 (interrupted)."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    gc.set_threshold(10_000, 50, 100)  # a command lives for a fraction of a second and makes little garbage
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)
    except FtcliError as error:
        from ftcli.cli.output import problems

        problems(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception:
        import shlex
        import traceback

        traceback.print_exc()
        print(f"\nThis is a bug in ftcli. To reproduce it: ftcli {shlex.join(arguments)}", file=sys.stderr)
        return EXIT_BUG
