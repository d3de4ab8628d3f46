"""The recipe while it is being written, and what has been decided for each key so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.config.conversion.account import Entry, path_text
from ftcli.config.conversion.foreign_file import ForeignFile
from ftcli.config.group_fields import group_fields, settable
from ftcli.config.importers import Importer
from ftcli.core.strict_yaml import KeyPath
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.settings.groups import GROUPS, OWN_GROUPS
from ftcli.settings.library_fields import Field

UNTOUCHED = "its default, as if it were not there"
OFF: tuple[Any, ...] = (None, False, 0, "", "none", "None", "null", "no", "false", [], {})
"""Values that say: not this."""


@dataclass(frozen=True)
class Occurrence:
    """A key where it stands in the file."""

    path: KeyPath
    name: str
    """Dotted, without the places in lists."""
    value: Any
    line: int
    inside: bool


def occurrences(value: Any, lines: Mapping[KeyPath, int], path: KeyPath = ()) -> Iterator[Occurrence]:
    """Every key of every mapping, those inside lists too, in the order of the file."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from occurrences(item, lines, (*path, str(index)))
    elif isinstance(value, dict):
        for key, item in value.items():
            here = (*path, key)
            yield Occurrence(here, _name(here), item, lines.get(here, 1), _holds_keys(item))
            yield from occurrences(item, lines, here)


def _name(path: KeyPath) -> str:
    return ".".join(part for part in path if not part.isdigit())


def _holds_keys(value: Any) -> bool:
    return bool(value) and (
        isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) and item for item in value))
    )


@dataclass
class Draft:
    """A recipe in the making. Handlers read keys with `get`, and say of each what became of it."""

    tool: str
    importer: Importer
    file: ForeignFile
    choices: dict[str, str] = field(default_factory=lambda: {"method": "sft", "peft": "none"})
    settings: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    entries: dict[KeyPath, Entry] = field(default_factory=dict)
    written_out: list[tuple[str, str, str]] = field(default_factory=list)
    by_default: list[tuple[str, str, str, str]] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)
    untouched: set[KeyPath] = field(default_factory=set)
    """Keys that are as they are where nobody sets them: nothing is lost where they are not carried over."""

    def __post_init__(self) -> None:
        self.keys = tuple(occurrences(self.file.data, self.file.lines))

    # reading

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key by its dotted name; `default` where it is missing or null."""
        node: Any = self.file.data
        for part in name.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return default if node is None else node

    def named(self, name: str) -> list[Occurrence]:
        """Where a dotted name stands in the file."""
        return [each for each in self.keys if each.name == name]

    # deciding

    def _enter(self, list_: str, key: str | Occurrence, after: str, why: str) -> None:
        for each in [key] if isinstance(key, Occurrence) else self.named(key):
            if each.path not in self.entries:
                if list_ == "not_carried" and each.path in self.untouched:
                    list_, after, why = "mapped", "", UNTOUCHED
                shown = path_text(each.path, self.file.data)
                self.entries[each.path] = Entry(
                    list=list_, key=shown, line=each.line, before=each.value, after=after, why=why, inside=each.inside
                )

    def mapped(self, key: str | Occurrence, after: str = "", why: str = "") -> None:
        """A key that means the same here."""
        self._enter("mapped", key, after, why)

    def changed(self, key: str | Occurrence, after: str, why: str) -> None:
        """A key whose place is taken by something that is not quite the same."""
        self._enter("changed", key, after, why)

    def recast(self, key: Occurrence, after: str, why: str) -> None:
        """Say of a key that was decided before that its value is changed after all."""
        self.entries.pop(key.path, None)
        self.changed(key, after, why)

    def dropped(self, key: str | Occurrence, why: str) -> None:
        """A key that is not carried over."""
        self._enter("not_carried", key, "", why)

    def silent(self, key: str | Occurrence, why: str) -> None:
        """A key that has no effect there, without a word."""
        self._enter("silent", key, "", why)

    # writing

    def field(self, setting: str) -> Field | None:
        """The field of a setting, if the chosen method and adapter have it."""
        group, _, name = setting.partition(".")
        if group in ("run", "seed"):
            return group_fields("run", get_method("sft"), None).get(name) if group in OWN_GROUPS else None
        method, peft = get_method(self.choices["method"]), self._peft()
        if group not in GROUPS or (group == "peft" and peft is None):
            return None
        fields = group_fields(group, method, peft)
        return fields[name] if name in settable(group, fields, peft if group == "peft" else None) else None

    def _peft(self) -> Any:
        own = {key.partition(".")[2]: value for key, value in self.settings.items() if key.startswith("peft.")}
        return peft_method({**own, "name": self.choices["peft"]})

    def has(self, setting: str) -> bool:
        """Whether a setting may be written under the chosen method and adapter."""
        return setting == "seed" or setting.startswith("run.") or self.field(setting) is not None

    def put(self, setting: str, value: Any, comment: str = "") -> None:
        """Write a setting."""
        self.settings[setting] = value
        if comment:
            self.comments[setting] = comment

    def default(self, setting: str, value: Any, why: str) -> None:
        """Write out a default of the tool, where the file says nothing and the setting exists here."""
        if setting not in self.settings and self.has(setting):
            self.put(setting, value, why)
            self.written_out.append((setting, _shown(value), why))

    def choose(self, group: str, choice: str) -> None:
        """Choose a method, an adapter, a quantisation or a hardware profile."""
        self.choices[group] = choice


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
