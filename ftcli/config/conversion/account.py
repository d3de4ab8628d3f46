"""What became of the keys of a foreign configuration: each occurrence of a key stands in exactly one list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

LISTS = {
    "mapped": "the same here",
    "changed": "changed in meaning",
    "not_carried": "not carried over",
    "silent": "ignored there without a word",
}
"""The lists of an account, and what a reader calls them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One occurrence of a key, and what became of it."""

    list: str
    key: str
    """As a path: `datasets[0].type`."""
    line: int
    before: Any
    after: str = ""
    """Our settings for it, as overrides; "" where none is written."""
    why: str = ""
    """What changes, or why nothing is carried over."""
    inside: bool = False
    """Whether the key holds keys of its own, which stand in the account themselves."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Every key of a file, in the order of the file."""

    entries: tuple[Entry, ...]
    written_out: tuple[tuple[str, str, str], ...] = ()
    """Defaults of the tool that differ from ours: our setting, the value, and why."""
    by_default: tuple[tuple[str, str, str, str], ...] = ()
    """What happens there where the file says nothing: their key, its default, ours in its place, and what differs."""
    unsupported: tuple[str, ...] = ()
    """What of the training ftcli cannot do at all, so that the recipe is not the same training."""
    waits_for: tuple[str, ...] = ()
    """What the recipe leaves open, since the file does not name it, or names what is not on this machine."""

    def of(self, name: str) -> tuple[Entry, ...]:
        """The entries of one list."""
        return tuple(each for each in self.entries if each.list == name)

    def counts(self) -> dict[str, int]:
        """How many occurrences each list has."""
        found = Counter(each.list for each in self.entries)
        return {name: found[name] for name in LISTS}

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        lists = {name: [_plain(each) for each in self.of(name)] for name in LISTS}
        return {
            "counts": {"keys": len(self.entries), **self.counts()},
            **lists,
            "written_out": [dict(zip(("setting", "value", "why"), each, strict=True)) for each in self.written_out],
            "by_default": [dict(zip(("key", "before", "after", "why"), each, strict=True)) for each in self.by_default],
            "unsupported": list(self.unsupported),
            "waits_for": list(self.waits_for),
        }


def _plain(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if key != "list"}


def path_text(path: Iterable[str], data: Any) -> str:
    """A path of keys and list places as it is written: `datasets[0].type`."""
    text, node = "", data
    for part in path:
        if isinstance(node, list):
            text, node = f"{text}[{part}]", node[int(part)]
        else:
            text, node = f"{text}.{part}" if text else part, node[part]
    return text
