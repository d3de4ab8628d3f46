"""Ollama's Modelfile, written and read: the file of weights, the chat template and the tokens that end answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files

NAME = "Modelfile"
_MOST_BYTES = 1 << 20
_INSTRUCTION = re.compile(r'([A-Za-z]+)[ \t]+(?:"""(.*?)"""|([^\n]*))[ \t]*(?:\n|\Z)', re.S)


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says, as far as answers depend on it."""

    weights: str
    """The file or model of FROM, as it is written there."""
    template: str | None = None
    stops: Sequence[str] = ()
    system: str | None = None


def written(modelfile: Modelfile, note: str = "") -> str:
    """The text of a Modelfile.

    Args:
        note: a line for who reads it.
    """
    lines = [*(f"# {line}" for line in note.splitlines()), f"FROM {modelfile.weights}"]
    if modelfile.template is not None:
        lines.append(f'TEMPLATE """{modelfile.template}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in modelfile.stops if '"' not in stop]
    return "\n".join(lines) + "\n"


def read(file: Path) -> Modelfile:
    """What a Modelfile says; it may be a stranger's.

    Raises:
        ConfigError: it is none.
    """
    try:
        text = foreign_files.read_text(file, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "name a Modelfile")) from None
    found: dict[str, str] = {}
    stops, at = list[str](), 0
    while at < len(text):
        match = _INSTRUCTION.match(text, at)
        if match is None:  # an empty line, or a comment
            at = text.find("\n", at) + 1 or len(text)
            continue
        at, word = match.end(), match[1].upper()
        value = match[2] if match[2] is not None else match[3].strip()
        if word == "PARAMETER" and value.split(None, 1)[0] == "stop":
            stops.append(_unquoted(value.split(None, 1)[-1].strip()))
        else:
            found[word] = value if match[2] is not None else _unquoted(value)
    if "FROM" not in found:
        raise ConfigError(Problem(str(file), "names no model by FROM", "name a Modelfile"))
    return Modelfile(found["FROM"], found.get("TEMPLATE"), stops, found.get("SYSTEM"))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
