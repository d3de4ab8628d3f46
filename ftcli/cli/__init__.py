"""The command line: `ftcli COMMAND [group=choice] [key=value] [--flag]`. The only room that prints or exits.

Each command is a module that declares itself: it is found by listing this folder and imported only when it is called,
so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from ftcli.core.exit_codes import EXIT_BUG, EXIT_CONFIG, EXIT_DONE, EXIT_INTERRUPTED
from ftcli.core.untrusted.printable import cleaned
from ftcli.runs.stop_signals import Stopped, handled, interrupt

_LAST = 1000
_TRAINS = ["train"]


def declared(folder: str) -> dict[str, tuple[str, str]]:
    """The commands, or actions of a command, in a folder: the module and the summary of each, in their order.

    They are read as text, because importing them takes too long for a help screen.
    """
    found = []
    for file in os.listdir(folder):
        stem, suffix = os.path.splitext(file)
        if suffix != ".py":
            continue
        with open(os.path.join(folder, file), encoding="utf-8") as text:
            source = text.read()
        if summary := _constant(source, "SUMMARY"):
            order = int(_constant(source, "ORDER") or _LAST)
            found.append((order, _constant(source, "NAME").strip('"') or stem, stem, summary.strip('"')))
    return {name: (module, summary) for _, name, module, summary in sorted(found)}


def _constant(source: str, name: str) -> str:
    """The text of a constant that stands on a line of its own; "" if there is none."""
    _, _, rest = source.partition(f"\n{name} = ")
    return rest.partition("\n")[0]


# Without pathlib, whose import alone would take a tenth of a help screen's time.
COMMANDS: dict[str, tuple[str, str]] = declared(os.path.dirname(__file__))
"""Each command's module and summary, in the order of the help screen.

A command is a module of this folder with a function `run(argv)`. It declares, each on one line: `SUMMARY`, its line on
the help screen; `ORDER`, its position there; and `NAME`, if the module cannot have the command's name.
"""


def usage() -> str:
    """The text of `ftcli --help`."""
    rows = "\n".join(f"  {name:<11} {line}" for name, (_, line) in COMMANDS.items())
    return f"""ftcli: fine-tuning of language models, from a YAML recipe to a trained model

usage: ftcli COMMAND [group=choice] [key=value] [--flag]

{rows}

groups: method model data peft quantisation hardware train   (ftcli list GROUP shows the choices)
try:    ftcli train recipe=demo
        ftcli train method=dpo model=llama peft=lora data.path=pairs.jsonl
        ftcli train rows.jsonl model=Qwen/Qwen3-0.6B peft=lora
        ftcli help COMMAND
"""


def _help_on(arguments: list[str]) -> list[str]:
    """The command that answers `ftcli help COMMAND` or `ftcli help GROUP`.

    Raises:
        FtcliError: it is neither, or there are several.
    """
    from ftcli.cli.listing import kind_of_list
    from ftcli.core.errors import FtcliError, Problem
    from ftcli.core.suggest import suggest

    name, *more = arguments[1:]
    where = f"ftcli {' '.join(arguments)}"
    if more:
        raise FtcliError(Problem(where, "asks for help on several things", f"ftcli help {name}"))
    if name in COMMANDS:
        return [name, "--help"]
    if kind_of_list(name) is not None:
        return ["list", name]
    raise FtcliError(Problem(where, f"{name} is not a command", suggest(name, COMMANDS, "ftcli help ")))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1:  # ftcli help train
            return _dispatch(_help_on(arguments))
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
        from ftcli.core.errors import FtcliError, Problem
        from ftcli.core.suggest import suggest
        from ftcli.core.text import shell_word

        where = f"ftcli {name}"
        if "=" in name:
            typed = " ".join(map(shell_word, arguments))
            raise FtcliError(Problem(where, "the command has to come first", f"ftcli train {typed}"))
        raise FtcliError(Problem(where, f"{name} is not a command", suggest(name, COMMANDS, "ftcli ")))
    result: int = importlib.import_module(f"ftcli.cli.{COMMANDS[name][0]}").run(rest)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (our bug), 2 (configuration), 3 (data), 75 (interrupted)."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    # A command lives for a fraction of a second and leaves little garbage in cycles.
    gc.set_threshold(10_000, 50, 100)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cleaned(sys.stdout), cleaned(sys.stderr)
    try:
        with handled(interrupt):
            _take_plugins(arguments)
            if argv is None and arguments[:1] == _TRAINS:
                from ftcli.launch.local import start_early

                start_early(arguments[1:])
            return _dispatch(arguments)
    except SystemExit as end:
        return _ended(end, arguments)
    except Stopped as stopped:
        if not stopped.reported:
            with contextlib.suppress(OSError):  # a terminal that was closed
                print(f"\n{stopped}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        return _failed(error, arguments)
    finally:
        sys.stdout, sys.stderr = before
        # A worker that no run has taken. Imported by nothing else, so that a help screen does not.
        if (early := sys.modules.get("ftcli.launch.early_worker")) is not None:
            early.end()


def _ended(end: SystemExit, arguments: list[str]) -> int:
    """The exit code of argparse, which ends so after --help; a plugin may not end the process."""
    loading = sys.modules.get("ftcli.core.plugins.plugin_loading")
    fault = loading.blame(end) if loading is not None else None
    if fault is None:
        return int(end.code or 0)
    from ftcli.core.errors import ConfigError

    return _failed(ConfigError(fault), arguments)


def _take_plugins(arguments: list[str]) -> None:
    """Load the plugins that this command line names, before anything that lists choices; no variable can name them."""
    checked = [word for word in arguments[2:] if not word.startswith("-")] if arguments[:2] == _CHECK else []
    if not checked and not any(word.partition("=")[0] == _PLUGINS for word in arguments):
        os.environ.pop("FTCLI_PLUGINS", None)
        return
    from ftcli.core.errors import ConfigError, Problem
    from ftcli.core.plugins import plugin_loading

    folders = [word.partition("=")[2] for word in arguments if word.startswith(f"{_PLUGINS}=")]
    at = [index for index, word in enumerate(arguments) if word == _PLUGINS]
    if any(index + 1 == len(arguments) for index in at):
        raise ConfigError(Problem(_PLUGINS, "names no folder", f"{_PLUGINS} DIR"))
    plugin_loading.activate([*checked[:1], *folders, *(arguments[index + 1] for index in at)])


_PLUGINS = "--plugins"
_CHECK = ["plugins", "check"]


def _failed(error: Exception, arguments: list[str]) -> int:
    """Report a user's mistake, or a bug of ours; returns the exit code."""
    from ftcli.core.errors import (  # only here: a help screen needs no dataclasses
        DISK_ERRNOS,
        ConfigError,
        DiskError,
        FtcliError,
    )

    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        error = DiskError.of(error)
    if isinstance(error, FtcliError):
        from ftcli.cli.output import problems

        problems(error, as_json="--json" in arguments)
        return error.exit_code
    from ftcli.core.plugins.plugin_loading import blame

    if (fault := blame(error)) is not None:
        return _failed(ConfigError(fault), arguments)
    import traceback

    from ftcli.core.text import shell_word

    traceback.print_exception(error)
    typed = " ".join(map(shell_word, arguments))
    print(f"\nThis is a bug in ftcli. To reproduce it: ftcli {typed}", file=sys.stderr)
    return EXIT_BUG
