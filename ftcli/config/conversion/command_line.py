"""The training command of a shell script, read as words. No shell runs, and nothing is substituted but the script's own
plain `name=value` lines."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftcli.config.conversion.foreign_yaml import Overwritten
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import scalar

PROGRAMS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("swift",), ("sft", "pt", "rlhf")),
    (("llamafactory-cli", "lmf"), ("train",)),
    (("trl",), ("sft", "dpo", "kto", "grpo", "rloo", "reward")),
)
"""Programs, and their commands that train."""
_SCRIPTS = {"sft.py": "sft", "dpo.py": "dpo", "kto.py": "kto", "grpo.py": "grpo", "rloo.py": "rloo",
            "reward_modeling.py": "reward", "orpo.py": "orpo", "cpo.py": "cpo"}  # fmt: skip
"""TRL's example scripts."""
_READS_A_FILE = {"axolotl": "train", "tune": "run"}
_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(\S*)$")
_USED = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::-([^}]*))?\}|([A-Za-z_]\w*))")
_COUNTED = re.compile(r"\$\(\(?\s*(?:expr\s+)?(\d+(?:\s*[-+*/]\s*\d+)+)\s*\)?\)")


@dataclass(frozen=True)
class Command:
    """A training command: its program, its flags, and the variables before it."""

    program: tuple[str, ...]
    values: dict[str, Any]
    lines: dict[str, int]
    overwritten: tuple[Overwritten, ...]
    environment: dict[str, str]


def training_command(text: str, shown: str) -> Command:
    """The first command of a script that trains.

    Raises:
        ConfigError: there is none, or it only names a configuration file.
    """
    variables: dict[str, str] = {}
    others = []
    for line, words in _commands(text, variables):
        environment: dict[str, str] = {}
        while words and (assigned := _ASSIGNED.match(words[0])):
            environment[assigned[1]] = assigned[2]
            words = words[1:]
        if not words or words[0] == "export":
            variables |= environment | {a[1]: a[2] for a in map(_ASSIGNED.match, words[1:]) if a}
            continue
        found = _program(words)
        if found is None:
            others += [" ".join(words[:2])] if words[0] in ("swift", "megatron", "llamafactory-cli", "trl") else []
            continue
        program, rest = found
        return _with_flags(program, rest, line, environment, shown)
    seen = f", only {', '.join(dict.fromkeys(others))}" if others else ""
    raise ConfigError(
        Problem(
            shown,
            f"has no command that trains{seen}",
            "name a script with `swift sft`, `swift rlhf`, `llamafactory-cli train` or `trl …`",
        )
    )


def _substituted(line: str, variables: Mapping[str, str]) -> str:
    """A line with the script's own plain variables, and its sums of whole numbers: `$(expr 16 / 4)`."""
    line = _USED.sub(lambda used: variables.get(used[1] or used[3], used[2] or used[0]), line)
    return _COUNTED.sub(lambda sum_: str(_sum(sum_[1])), line)


def _sum(text: str) -> int:
    """A sum of whole numbers from left to right, as `expr` counts terms of one rank."""
    first, *rest = re.findall(r"\d+|[-+*/]", text)
    total = int(first[:9])
    for sign, number in zip(rest[::2], rest[1::2], strict=False):
        value = int(number[:9])
        if sign == "/":
            total = total // value if value else 0
        else:
            total = {"+": total + value, "-": total - value, "*": total * value}[sign]
    return total


def _commands(text: str, variables: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """The commands of a script with their lines; `\\` joins lines."""
    joined, start = "", 0
    for number, row in enumerate(text.splitlines(), 1):
        stripped = row.strip()
        if not joined:
            start = number
            if not stripped or stripped.startswith("#"):
                continue
        elif stripped.startswith("#"):
            continue
        joined += " " + stripped.removesuffix("\\")
        if not stripped.endswith("\\") and joined.count("'") % 2 == 0 and joined.count('"') % 2 == 0:
            yield from ((start, each) for each in _words(_substituted(joined, variables)))
            joined = ""
    if joined:
        yield from ((start, each) for each in _words(_substituted(joined, variables)))


def _words(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        for word in lexer:
            if set(word) <= set(";&|"):
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:  # a quotation that never ends: no command can be read from it
        return
    if words:
        yield words


def _program(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """The program that trains, and the words behind it."""
    for place, word in enumerate(words):
        name = word.rpartition("/")[2]
        following = words[place + 1] if place + 1 < len(words) else ""
        for programs, commands in PROGRAMS:
            if name in programs and following in commands and (place == 0 or words[place - 1] != "megatron"):
                return (programs[0], following), list(words[place + 2 :])
        if name in ("sft.py", "pt.py", "rlhf.py") and "swift" in word:
            return ("swift", name.removesuffix(".py")), list(words[place + 1 :])
        if name in _SCRIPTS:
            return ("trl", _SCRIPTS[name]), list(words[place + 1 :])
        if name in _READS_A_FILE and following == _READS_A_FILE[name]:
            return (name, following), list(words[place + 2 :])
    return None


def _with_flags(
    program: tuple[str, ...], words: Sequence[str], line: int, environment: dict[str, str], shown: str
) -> Command:
    files = [word for word in words if word.endswith((".yaml", ".yml", ".json")) and not word.startswith("-")]
    if (words and files[:1] == [words[0]]) or program[0] in _READS_A_FILE or ("--config" in words and files):
        what = f"starts {' '.join(program)} with a configuration file" + (f", {files[0]}" if files else "")
        raise ConfigError(Problem(f"{shown}:{line}", what, "import that file"))
    values: dict[str, Any] = {}
    overwritten = []
    key, given = "", list[str]()
    for word in [*words, "--"]:
        if word.startswith("--"):
            if key:
                if key in values:
                    overwritten.append(Overwritten(key, line, values[key]))
                values[key] = _value(given)
            name, equals, value = word.removeprefix("--").partition("=")
            key, given = name.replace("-", "_"), [value] if equals else []
        else:
            given.append(word)
    known = {**environment, **values}
    return Command(program, known, dict.fromkeys(known, line), tuple(overwritten), environment)


def _value(words: Sequence[str]) -> Any:
    """What the words behind a flag are."""
    if not words:
        return True
    if len(words) > 1:
        return [scalar(word) for word in words]
    word = words[0]
    if word[:1] in "{[" and len(word) < 10_000:
        try:
            return json.loads(word)
        except (ValueError, RecursionError):
            return word
    return scalar(word)


__all__ = ["Command", "training_command"]
