"""`ftcli completion SHELL`: a completion script, which calls `ftcli completion words …`."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.cli import COMMANDS
from ftcli.cli.listing import GROUPS
from ftcli.core import assets
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem

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
    """Completions of the last word of a line: commands, then `group=`, `group=choice` and our own keys."""
    words = line.split()
    last = "" if not words or line.endswith(" ") else words.pop()
    if words == ["ftcli"]:
        return [name for name in COMMANDS if name.startswith(last)]
    group, equals, start = last.partition("=")
    if equals and (group in GROUPS or group == "recipe"):
        names = assets.recipes() if group == "recipe" else assets.choices(group)
        return [f"{group}={name}" for name in names if name.startswith(start)]
    if "." in last and not equals:
        return [f"{name}=" for name in _settings(last.partition(".")[0], words) if name.startswith(last)]
    return [f"{name}=" for name in (*GROUPS, "recipe", "seed") if name.startswith(last)]


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
