"""Ollama's Modelfile: what it is from, its template and its parameters.

    FROM ./model.gguf
    TEMPLATE \"\"\"{{ .Prompt }}\"\"\"
    PARAMETER stop \"<|im_end|>\"

Its templates are Go's, which are not rendered here. The file may be a stranger's: it names a file of its own folder, or
what it names is read only where that was granted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.settings.ownership import ALLOW_PATH

_WORDS = ("FROM", "TEMPLATE", "PARAMETER", "ADAPTER", "SYSTEM", "LICENSE", "MESSAGE", "REQUIRES", "RENDERER", "PARSER")
_LINE = re.compile(r"(?P<word>[A-Za-z]+)[ \t]+(?P<rest>.*)", re.DOTALL)
_QUOTES = '"""'


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says."""

    file: Path
    source: str
    template: str | None = None
    adapter: str | None = None
    system: str | None = None
    parameters: dict[str, list[str]] = field(default_factory=dict)

    def gguf(self, *, granted: bool) -> Path | None:
        """The GGUF file that it is from; None where it names another model by name.

        Raises:
            ConfigError: the file lies outside of its folder, and that was not granted.
        """
        return self._inside(self.source, granted)

    def _inside(self, named: str, granted: bool) -> Path | None:
        path = self.file.parent / named
        if not path.is_file():
            return None
        if not granted and not path.resolve().is_relative_to(self.file.parent.resolve()):
            what = f"is from {named}, which lies outside of its folder"
            raise ConfigError(Problem(str(self.file), what, f"allow it with {ALLOW_PATH}"))
        return path


def parsed(file: Path) -> Modelfile:
    """The content of a Modelfile.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        text = foreign_files.read_text(file)
    except (OSError, ValueError) as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error}", "name a Modelfile")) from None
    found: dict[str, str] = {}
    parameters: dict[str, list[str]] = {}
    lines, number = text.split("\n"), 0
    while number < len(lines):
        line, at = lines[number], number + 1
        number += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        word = match["word"].upper() if match else ""
        if match is None or word not in _WORDS:
            raise ConfigError(Problem(f"{file}:{at}", f"{line.strip()[:60]!r} is no line of a Modelfile", "correct it"))
        value = match["rest"]
        if value.startswith(_QUOTES):
            value, number = _quoted(lines, at, value, file)
        if word == "PARAMETER":
            name, _, rest = value.strip().partition(" ")
            parameters.setdefault(name, []).append(_bare(rest))
        else:
            found[word] = value if match["rest"].startswith(_QUOTES) else _bare(value)
    if "FROM" not in found:
        raise ConfigError(Problem(str(file), "has no line FROM, so it is no Modelfile", "name a Modelfile"))
    own = (found.get("TEMPLATE"), found.get("ADAPTER"), found.get("SYSTEM"))
    return Modelfile(file, found["FROM"], *own, parameters)


def _quoted(lines: list[str], at: int, first: str, file: Path) -> tuple[str, int]:
    """A text in three quotation marks, and the number of the line after it."""
    taken, rest = [], first[len(_QUOTES) :]
    for number in range(at, len(lines) + 1):
        before, closed, _ = rest.partition(_QUOTES)
        taken.append(before)
        if closed:
            return "\n".join(taken), number
        rest = lines[number] if number < len(lines) else ""
    raise ConfigError(Problem(f"{file}:{at}", 'opens """ and never closes it', "close it"))


def _bare(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
