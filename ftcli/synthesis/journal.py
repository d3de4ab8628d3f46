"""What is finished of a data-making stage: items.jsonl, a line an item, written through before the next is begun.

A stage that was killed leaves at most one torn line, which is cut off. A line holds the item's input and key (a
hash of it), the row that came of it or why none did, and every reply as it was.
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

from ftcli.runs import rundir

ITEMS = "items.jsonl"


@dataclass(frozen=True)
class Item:
    """One thing to be made: its input and the hash of it."""

    key: str
    row: Mapping[str, Any]


def digest_of(value: Any) -> str:
    """What stands for a value of plain data, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


def keyed(rows: Iterable[Mapping[str, Any]]) -> list[Item]:
    """The items of rows; of equal rows each has a key of its own."""
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
                    found = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    found = None
                if not isinstance(found, dict) or "key" not in found:
                    break
                self.done[str(found["key"])] = found
                whole += len(line)
            if whole < len(raw):
                self._cut(whole)

    def _cut(self, size: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write finished items through to the disk, all of them or, after a kill, some from the first on."""
        with self.path.open("ab") as file:
            file.write("".join(map(_written, lines)).encode())
            file.flush()
            os.fsync(file.fileno())
        self.done.update({str(line["key"]): dict(line) for line in lines})

    def forget(self, keys: Iterable[str]) -> None:
        """Take items back, such as those of a batch that is not whole."""
        dropped = {key for key in keys if key in self.done}
        if not dropped:
            return
        self.done = {key: line for key, line in self.done.items() if key not in dropped}
        rundir.write_atomically(self.path, "".join(map(_written, self.done.values())))
