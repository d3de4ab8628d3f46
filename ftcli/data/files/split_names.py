"""Which files of a folder or a set are its training rows, told by their names where nothing else says so.

Departs from the datasets library in one thing: where several parts are there and none is `train`, nothing is guessed.
Held-out rows trained on in silence are worth a question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

TRAIN = "train"
_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "eval",
    "evaluation": "eval",
}
_SHARD = re.compile(r"^(?P<stem>.+?)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?P<rest>\..*)?$")
_SEPARATOR = re.compile(r"[-._ 0-9]+")


class NoSplit(Exception):
    """The files of a split cannot be told: `what` is the fault, `there` what could be asked for instead."""

    def __init__(self, what: str, there: Sequence[str]) -> None:
        super().__init__(what)
        self.what, self.there = what, list(there)


def split_of(relative: str) -> str | None:
    """The split that a file's path below its folder names, or None.

    A name that begins with a split word and is numbered (`train_prefs-00000-of-00001`) is a split of that whole name.
    """
    *folders, name = relative.split("/")
    shard = _SHARD.match(name)
    stem = shard["stem"] if shard else name.partition(".")[0]
    words = [word for word in _SEPARATOR.split(stem.lower()) if word]
    if shard and words and words[0] in _WORDS and re.fullmatch(r"\w+", stem):
        return _WORDS.get(stem.lower(), stem)
    if stem.lower() in _WORDS:
        return _WORDS[stem.lower()]
    for folder in reversed(folders):
        if folder.lower() in _WORDS:
            return _WORDS[folder.lower()]
    named = {_WORDS[word] for word in words if word in _WORDS}
    return named.pop() if len(named) == 1 else None


def by_name(relatives: Sequence[str], split: str | None) -> list[str]:
    """Those of the files that belong to the split; for None the training ones.

    Raises:
        NoSplit: none of them is of that split, or None was asked and the names leave it open.
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for name in relatives:
        parts[split_of(name) or ""].append(name)
    if split is None and set(parts) == {""}:
        return list(relatives)
    return chosen(parts, split)


def chosen(parts: Mapping[str, list[str]], split: str | None) -> list[str]:
    """The files of one split out of all; "" holds those that name none.

    Raises:
        NoSplit: it is not there, or None was asked, there are several and none is `train`.
    """
    there = sorted(name for name in parts if name)
    if split is None:
        if TRAIN in parts:
            return parts[TRAIN]
        if len(parts) == 1:
            return next(iter(parts.values()))
        others = " beside files of no split" if "" in parts else ""
        raise NoSplit(f"holds {', '.join(there)}{others}, and no split train", there)
    if split in there:
        return parts[split]
    wanted = _WORDS.get(split.lower())
    same = [name for name in there if wanted and _WORDS.get(name.lower()) == wanted]
    if len(same) != 1:
        raise NoSplit(f"has no split {split}", there)
    return parts[same[0]]


def missing_shards(relatives: Sequence[str]) -> list[str]:
    """Names of the shards that numbered files (`…-00003-of-00010…`) speak of and that are not among them."""
    there = set(relatives)
    groups: set[tuple[str, str, int, int]] = set()
    for name in relatives:
        folder, slash, base = name.rpartition("/")
        # A stranger's name may claim any number of shards.
        if (shard := _SHARD.match(base)) and int(shard["count"]) <= 100_000:
            rest = f"-of-{shard['count']}{shard['rest'] or ''}"
            groups.add((f"{folder}{slash}{shard['stem']}-", rest, int(shard["count"]), len(shard["number"])))
    names = (f"{head}{i:0{width}}{rest}" for head, rest, count, width in groups for i in range(count))
    return sorted(name for name in names if name not in there)
