"""`ftcli completion SHELL`: a completion script, which calls `ftcli completion words …`."""

from __future__ import annotations

import contextlib
import glob
import importlib
import io
import os
import re
from collections.abc import Sequence

from ftcli.cli import COMMANDS
from ftcli.cli.listing import GROUPS, KINDS
from ftcli.cli.recipe import ACTIONS
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.data.files.file_types import kind_of
from ftcli.runs import rundir
from ftcli.settings.groups import is_path_key

SUMMARY = "print the completion script for bash, zsh or fish"
ORDER = 160

_BASH = """_ftcli() {
  local IFS=$'\\n' word="${COMP_LINE:0:$COMP_POINT}"
  COMPREPLY=($(ftcli completion words "$word"))
  local last="${word##* }"
  [[ "$last" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${last%%=*}="}")
  [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _ftcli ftcli
"""
_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH
_FISH = "complete -c ftcli -f -a '(ftcli completion words (commandline -cp))'\n"
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def candidates(line: str) -> list[str]:
    """Completions of the last word of a line: commands, flags, runs, files, and what can stand among overrides."""
    words = line.split()
    last = "" if not words or line.endswith(" ") else words.pop()
    if words == ["ftcli"]:
        return [name for name in COMMANDS if name.startswith(last)]
    command, before = "".join(words[1:2]), "".join(words[-1:])
    if last.startswith("-"):
        return [flag for flag in _flags(words[1:]) if flag.startswith(last)]
    if command in _TAKE_RUN or before in ("--resume", "--from", "--adapter"):
        if before == command or before.startswith("--"):
            return [*_runs(last), *_files(last)]
        return _files(last)
    if command == "runs" and "compare" in words:
        return [*_runs(last), *_files(last)]
    if command in ("list", "help", "completion"):
        known = {"list": KINDS, "help": COMMANDS, "completion": SCRIPTS}[command]
        return [name for name in known if name.startswith(last)]
    if command in _TAKE_ACTION and before == command:
        return [name for name in _TAKE_ACTION[command] if name.startswith(last)]
    return _of_settings(last, words) + (_files(last) if "=" not in last else [])


def _of_settings(last: str, words: list[str]) -> list[str]:
    """Completions of a word among overrides: `group=`, `group=choice`, our own keys, and files behind a path key."""
    group, equals, start = last.partition("=")
    if equals and (group in GROUPS or group == "recipe"):
        names = assets.recipes() if group == "recipe" else assets.choices(group)
        return [f"{group}={name}" for name in names if name.startswith(start)]
    if "." in last and not equals:
        return [f"{name}=" for name in _settings(last.partition(".")[0], words) if name.startswith(last)]
    if equals and is_path_key(group):
        return [f"{group}={path}" for path in _files(start)]
    return [f"{name}=" for name in (*GROUPS, "recipe", "seed") if name.startswith(last)]


_TAKE_RUN = ("report", "eval", "chat", "generate", "merge", "sample", "score")
"""Commands whose first word is a run or a model."""
_TAKE_ACTION = {
    "data": ("check", "preview", "prepare"),
    "recipe": tuple(ACTIONS),
    "runs": ("list", "compare"),
}


def _flags(words: list[str]) -> list[str]:
    """The flags of a command, or of an action of `recipe`, read from its own help."""
    command, *rest = words or [""]
    if command not in COMMANDS:
        return []
    action = [word for word in rest[:1] if command == "recipe" and word in ACTIONS]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"ftcli.cli.{COMMANDS[command][0]}").run([*action, "--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text.getvalue())))


def _runs(start: str) -> list[str]:
    """The runs under runs/, by directory and by name."""
    if not rundir.ROOT.is_dir():
        return []
    folders = sorted(path for path in rundir.ROOT.glob("*/*") if rundir.is_run(path) or rundir.is_pipeline(path))
    names = dict.fromkeys([*(path.parent.name for path in folders), *map(str, folders)])
    return [name for name in names if name.startswith(start)]


def _files(start: str) -> list[str]:
    """Files of rows, recipes and folders whose path begins so; a folder ends in a slash."""
    found = []
    for path in sorted(glob.glob(f"{glob.escape(os.path.expanduser(start))}*")):
        if os.path.isdir(path):
            found.append(f"{path}/")
        elif kind_of(path) is not None or path.endswith((".yaml", ".yml")):
            found.append(path)
    return found


def _settings(group: str, words: list[str]) -> list[str]:
    """The options of a group under the method and PEFT method that the line chooses."""
    from ftcli.config.group_fields import group_fields, settable
    from ftcli.methods import all_methods
    from ftcli.peft_methods import peft_method

    if group not in (*GROUPS, "run"):
        return []
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    method = all_methods().get(chosen.get("method", ""), all_methods()["sft"])
    named = [word.split("=", 1) for word in words if word.startswith("peft.") and "=" in word]
    peft = peft_method({**{key.partition(".")[2]: value for key, value in named}, "name": chosen.get("peft", "lora")})
    fields = group_fields(group, method, peft)
    return [f"{group}.{name}" for name in sorted(settable(group, fields, peft))]


def run(argv: Sequence[str]) -> int:
    """Print a script, or the completions of a line."""
    shell = argv[0] if argv else "bash"
    if shell in ("-h", "--help"):
        print('usage: ftcli completion [bash|zsh|fish]\nfor example: eval "$(ftcli completion bash)"')
    elif shell == "words":
        print("\n".join(candidates(argv[1] if len(argv) > 1 else "")))
    elif shell in SCRIPTS:
        print(SCRIPTS[shell], end="")
    else:
        raise ConfigError(Problem(f"ftcli completion {shell}", "is not a supported shell", "bash, zsh or fish"))
    return EXIT_DONE
