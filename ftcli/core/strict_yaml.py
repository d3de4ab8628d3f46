"""A YAML reader for untrusted files: plain data, or an error with its line.

Built on PyYAML's event stream rather than its constructors, so that a file can create nothing but plain data: no tags,
no duplicate or merge keys, one document, UTF-8, and limits on size, depth and on nodes *after* aliases are expanded.
Departs from YAML 1.1 in two ways: `2e-5` is a number, and `yes`/`no`/`on`/`off` are strings.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftcli.core.errors import ConfigError, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_NODES = 10_000
MAX_CHARACTERS = 1_000_000
"""Characters of all texts once aliases are expanded: one text of the largest file, repeated, is gigabytes."""
MAX_DIGITS = 400
"""Longer numbers are read as floats, since Python refuses to parse integers of more than a few thousand digits."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_HEX = re.compile(r"0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)$")
# No file name can contain a NUL, and no UTF-8 file a lone surrogate.
_UNWRITABLE = re.compile(r"[\x00\ud800-\udfff]")
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A file's data, and the line of each key by key path."""

    file: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` of a key, or of its nearest ancestor that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines.get(path, 1)}"


@dataclass
class _Node:
    """A value with the line it starts on; `size` counts its nodes and `characters` its text, with aliases expanded."""

    value: Any
    line: int
    size: int = 1
    characters: int = 0


def scalar(text: str) -> Any:
    """The value of an unquoted YAML scalar."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.match(text) and len(text) < MAX_DIGITS:
        return int(text)
    if _HEX.match(text) and len(text) < MAX_DIGITS:
        return int(text, 16)
    if _FLOAT.match(text):
        return float(text)
    if _INFINITE.match(text):
        return float("-inf") if text.startswith("-") else float("inf")
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


class Builder:
    """Builds one document from YAML events; every fault is a Problem with its line."""

    def __init__(self, file: str, events: Iterator[Any]) -> None:
        self.file = file
        self.events = events
        self.anchors: dict[str, _Node] = {}
        # Nodes and characters so far, each alias counted at the full size of what it repeats.
        self.count = self.characters = 0

    def fault(self, line: int, what: str, fix: str) -> ConfigError:
        """An error at a line of this file."""
        return ConfigError(Problem(f"{self.file}:{line}", what, fix))

    def build(self, depth: int = 0) -> _Node | None:
        """The next node, or None at the end of a collection."""
        event = next(self.events)
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            return None
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self.fault(line, f"*{event.anchor} refers to no earlier anchor", "define the anchor first")
            node = self.anchors[event.anchor]
            # A few lines of nested aliases can stand for billions of nodes ("billion laughs"), so each use is counted.
            self.spend(node.size, node.characters, line)
            return node
        if getattr(event, "tag", None) not in (None, "!"):
            self.tagged(event, line)
        if depth > MAX_DEPTH:
            raise self.fault(line, f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
        self.spend(1, len(getattr(event, "value", "")), line)
        node = self.collect(event, line, depth)
        # Registered only now that the node is complete, so a node that refers to itself finds no anchor.
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def tagged(self, event: Any, line: int) -> None:
        """Refuse a tag."""
        raise self.fault(line, f"has a YAML tag ({event.tag}); a recipe is plain data", "remove the tag")

    def spend(self, nodes: int, characters: int, line: int) -> None:
        """Count nodes against MAX_NODES, and characters against MAX_CHARACTERS."""
        self.count += nodes
        self.characters += characters
        if self.characters > MAX_CHARACTERS:
            what = f"contains more than {MAX_CHARACTERS} characters once aliases are expanded"
            raise self.fault(line, what, "repeat less of it")
        if self.count > MAX_NODES:
            raise self.fault(line, f"contains more than {MAX_NODES} values once aliases are expanded", "shorten it")

    def collect(self, event: Any, line: int, depth: int) -> _Node:
        """The node that starts with this event: a scalar, a list or a mapping."""
        if isinstance(event, yaml.ScalarEvent):
            if not event.value.isprintable() and (bad := _UNWRITABLE.search(event.value)):
                raise self.fault(line, f"contains the character {bad[0]!r}, which text may not contain", "remove it")
            # Only an unquoted scalar without a tag may be a number, a boolean or null; "1" in quotes stays text.
            plain = event.implicit[0] and event.style in (None, "")
            return _Node(self.scalar(event.value) if plain else event.value, line, characters=len(event.value))
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while (item := self.build(depth + 1)) is not None:
                items.append(item)
            size, characters = 1 + sum(item.size for item in items), sum(item.characters for item in items)
            return _Node(items, line, size, characters)
        return self.mapping(line, depth)

    def mapping(self, line: int, depth: int) -> _Node:
        """A mapping whose entries keep the line of their key."""
        entries: dict[str, tuple[int, _Node]] = {}
        while (key := self.build(depth + 1)) is not None:
            name = self.accepted(key.value, key.line, entries)
            value = self.build(depth + 1)
            assert value is not None  # PyYAML gives every key a value, if only an empty one
            entries[name] = (key.line, value)
        entries = self.merged(entries)
        inside = [value for _, value in entries.values()]
        characters = sum(map(len, entries)) + sum(value.characters for value in inside)
        return _Node(entries, line, 1 + sum(value.size for value in inside), characters)

    def scalar(self, text: str) -> Any:
        """The value of an unquoted scalar."""
        return scalar(text)

    def accepted(self, key: Any, line: int, entries: Mapping[str, tuple[int, _Node]]) -> str:
        """A key of a mapping, if it may stand there beside the entries before it."""
        if not isinstance(key, str):
            raise self.fault(line, f"key {key!r} is not a string", "quote it")
        if key == "<<":
            raise self.fault(line, "merge keys (<<) are not allowed", "write the keys out")
        if key in entries:
            raise self.fault(line, f"key {key} is set here and on line {entries[key][0]}", "remove one of them")
        return key

    def merged(self, entries: dict[str, tuple[int, _Node]]) -> dict[str, tuple[int, _Node]]:
        """The entries of a mapping that is complete."""
        return entries


def _plain(node: _Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """The node's plain data; the line of each key and list item goes into `lines`."""
    if isinstance(node.value, dict):
        for key, (line, _) in node.value.items():
            lines[(*path, key)] = line
        return {key: _plain(value, (*path, key), lines) for key, (_, value) in node.value.items()}
    if isinstance(node.value, list):
        for index, item in enumerate(node.value):
            lines[(*path, str(index))] = item.line
        return [_plain(item, (*path, str(index)), lines) for index, item in enumerate(node.value)]
    return node.value


def plain(node: _Node) -> Any:
    """The plain data of a node."""
    return _plain(node, (), {})


def read_text(path: Path, shown: str) -> str:
    """The text of a YAML file within the limits.

    Raises:
        ConfigError: too large, or not UTF-8.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise ConfigError(Problem(shown, "is no regular file", "name a readable YAML file"))
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(Problem(shown, f"cannot be read: {error.strerror}", "name a readable YAML file")) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            Problem(shown, f"is larger than {MAX_BYTES // 1024} KiB", "a recipe is short; put data in another file")
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(Problem(f"{shown}:{line}", "is not UTF-8 text", "save the file as UTF-8")) from None


def parse(text: str, file: str, builder: Callable[[str, Iterator[Any]], Builder] = Builder) -> Document:
    """The single document in `text`, which must be a mapping.

    Raises:
        ConfigError: invalid YAML, or anything but plain data; names the line.
    """
    for number, row in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#\s*@package", row):
            raise ConfigError(Problem(f"{file}:{number}", "package headers (# @package) are not allowed", "remove it"))
    loader = _LOADER(text)
    try:
        events = iter(loader.get_event, None)
        next(events)  # stream start
        if isinstance(next(events), yaml.StreamEndEvent):
            return Document(file, {})
        node = builder(file, events).build()
        next(events)  # document end
        following = next(events)
        if not isinstance(following, yaml.StreamEndEvent):
            line = following.start_mark.line + 1
            raise ConfigError(Problem(f"{file}:{line}", "a second document starts here", "keep one document per file"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = f"is not valid YAML: {error.problem or error.context}"
        raise ConfigError(Problem(f"{file}:{line}", what, "check indentation, quotes and colons")) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            Problem(file, f"is not valid YAML: {str(error).splitlines()[0]}", "save it as text")
        ) from None
    finally:
        loader.dispose()
    lines: dict[KeyPath, int] = {}
    assert node is not None
    data = _plain(node, (), lines)
    if data is None:
        return Document(file, {})
    if not isinstance(data, dict):
        raise ConfigError(Problem(f"{file}:{node.line}", "is not a mapping", "write `key: value` lines"))
    return Document(file, data, lines)


def load(path: Path, shown: str | None = None) -> Document:
    """Read one YAML file strictly; `shown` is the name used in errors.

    Raises:
        ConfigError: see `read_text` and `parse`.
    """
    name = shown or str(path)
    return parse(read_text(path, name), name)
