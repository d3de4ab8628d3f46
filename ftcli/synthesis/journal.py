"""The finished items of a synthesis stage: items.jsonl, one line per item, synced to disk as soon as it is finished.

A kill leaves at most one incomplete line at the end, which is removed on resume. A line has the item's input and key (a
hash of the input), the row made from it or why it was dropped, and every reply. On resume an item whose key is in the
journal is not asked again: requests cost money, and a sampled answer would differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

ITEMS = "items.jsonl"


@dataclass(frozen=True)
class Item:
    """One input of a synthesis task, with its hash as the key."""

    key: str
    row: Mapping[str, Any]


def digest_of(value: Any) -> str:
    """A hash of plain data, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


def keyed(rows: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of rows. Equal rows get different keys, numbered in their order, so that each is answered."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        digest = digest_of(row)
        seen[digest] += 1
        found.append(Item(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", row))
    return found


def _written(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


class Journal:
    """The finished items of a folder, by key."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ITEMS
        self.done: dict[str, dict[str, Any]] = {}
        whole = 0
        if self.path.is_file():
            raw = self.path.read_bytes()
            for line in raw.splitlines(keepends=True):
                try:
                    found = foreign_files.parse_json(line) if line.endswith(b"\n") else None
                except ValueError:
                    found = None
                if not isinstance(found, dict) or "key" not in found:
                    break
                self.done[str(found["key"])] = found
                whole += len(line)
            if whole < len(raw):
                self._truncate(whole)

    def _truncate(self, size: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append finished items and sync them to disk; after a kill, a prefix of them is there."""
        with self.path.open("ab") as file:
            file.write("".join(map(_written, lines)).encode())
            file.flush()
            os.fsync(file.fileno())
        self.done.update({str(line["key"]): dict(line) for line in lines})

    def forget(self, keys: Iterable[str]) -> None:
        """Remove items, such as those of an incomplete batch."""
        dropped = {key for key in keys if key in self.done}
        if not dropped:
            return
        self.done = {key: line for key, line in self.done.items() if key not in dropped}
        rundir.write_atomically(self.path, "".join(map(_written, self.done.values())))
