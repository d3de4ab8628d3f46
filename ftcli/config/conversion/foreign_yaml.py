"""YAML as other tools read it: the bounds of `strict_yaml`, and the habits of PyYAML where the two differ.

A tool that lets a second `seed:` win without a word has run with the second, so that is the value; the first is kept,
to be told. Tags stay refused: they would make objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core import strict_yaml
from ftcli.core.strict_yaml import Document, KeyPath

_YES_NO = {"yes": True, "Yes": True, "YES": True, "on": True, "On": True, "ON": True,
           "no": False, "No": False, "NO": False, "off": False, "Off": False, "OFF": False}  # fmt: skip
_GROUPED = re.compile(r"[-+]?[1-9][0-9_]*_[0-9_]*$")


@dataclass(frozen=True)
class Overwritten:
    """A key that the same file sets again further down."""

    key: str
    line: int
    value: Any


@dataclass(frozen=True)
class ForeignDocument:
    """A file's data with the lines of its keys, and the keys that it overwrites itself."""

    document: Document
    overwritten: tuple[Overwritten, ...] = field(default=())


class _Builder(strict_yaml.Builder):
    """Reads numbers, `yes` and `no`, repeated keys and merge keys as PyYAML does."""

    overwritten: list[Overwritten]

    def scalar(self, text: str) -> Any:
        """A plain scalar; `yes` is true, and `1_000` a number."""
        if text in _YES_NO:
            return _YES_NO[text]
        return int(text.replace("_", "")) if _GROUPED.match(text) and len(text) < 40 else super().scalar(text)

    def accepted(self, key: Any, line: int, entries: Mapping[str, Any]) -> str:
        """A key as text; one that is there already is overwritten, and remembered."""
        name = str(key)
        if name in entries and name != "<<":
            first, node = entries[name]
            self.overwritten.append(Overwritten(name, first, strict_yaml.plain(node)))
        return name

    def merged(self, entries: dict[str, Any]) -> dict[str, Any]:
        """The entries with those of a merge key, which yield to the mapping's own."""
        _, node = entries.pop("<<", (0, None))
        for each in node.value if node is not None and isinstance(node.value, list) else [node] * (node is not None):
            if isinstance(each.value, dict):
                entries = {**each.value, **entries}
        return entries


def parse(text: str, file: str) -> ForeignDocument:
    """The document in a text, which must be a mapping.

    Raises:
        ConfigError: no YAML, a tag, or beyond the bounds of `strict_yaml`; names the line.
    """
    overwritten: list[Overwritten] = []

    def builder(name: str, events: Any) -> _Builder:
        made = _Builder(name, events)
        made.overwritten = overwritten
        return made

    return ForeignDocument(strict_yaml.parse(text, file, builder), tuple(overwritten))


def load(path: Path, shown: str | None = None) -> ForeignDocument:
    """Read a file.

    Raises:
        ConfigError: see `parse`; or it cannot be read.
    """
    name = shown or str(path)
    return parse(strict_yaml.read_text(path, name), name)


__all__ = ["ForeignDocument", "KeyPath", "Overwritten", "load", "parse"]
