"""Which files of a folder or a data set hold its training rows, by their names where nothing else says so.

Departs from the datasets library in one way: where there are several splits and none is `train`, nothing is guessed.
Training silently on held-out rows would be worse than an error.
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
    """The files of a split cannot be determined: `what` is the fault, `there` lists the splits to choose from."""

    def __init__(self, what: str, there: Sequence[str]) -> None:
        super().__init__(what)
        self.what, self.there = what, list(there)


def split_of(relative: str) -> str | None:
    """The split that a file's path below its folder names, or None.

    A sharded name that begins with a split word (`train_prefs-00000-of-00001`) names a split by its whole stem.
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
    """The files of the split; for None the training files.

    Raises:
        NoSplit: no file is of that split, or it is None and the names leave it open.
    """
    splits: dict[str, list[str]] = defaultdict(list)
    for name in relatives:
        splits[split_of(name) or ""].append(name)
    if split is None and set(splits) == {""}:
        return list(relatives)
    return chosen(splits, split)


def chosen(splits: Mapping[str, list[str]], split: str | None) -> list[str]:
    """The files of one of the splits; "" holds the files without a split.

    Raises:
        NoSplit: it does not exist, or it is None, and there are several and none is `train`.
    """
    there = sorted(name for name in splits if name)
    if split is None:
        if TRAIN in splits:
            return splits[TRAIN]
        if len(splits) == 1:
            return next(iter(splits.values()))
        others = " and files without a split" if "" in splits else ""
        raise NoSplit(f"has {', '.join(there)}{others}, but no split train", there)
    if split in there:
        return splits[split]
    wanted = _WORDS.get(split.lower())
    same = [name for name in there if wanted and _WORDS.get(name.lower()) == wanted]
    if len(same) != 1:
        raise NoSplit(f"has no split {split}", there)
    return splits[same[0]]


def missing_shards(relatives: Sequence[str]) -> list[str]:
    """Names of the shards that numbered files (`…-00003-of-00010…`) imply and that are missing."""
    there = set(relatives)
    groups: set[tuple[str, str, int, int]] = set()
    for name in relatives:
        folder, slash, base = name.rpartition("/")
        # The count is untrusted: a name may claim any number of shards.
        if (shard := _SHARD.match(base)) and int(shard["count"]) <= 100_000:
            rest = f"-of-{shard['count']}{shard['rest'] or ''}"
            groups.add((f"{folder}{slash}{shard['stem']}-", rest, int(shard["count"]), len(shard["number"])))
    names = (f"{head}{i:0{width}}{rest}" for head, rest, count, width in groups for i in range(count))
    return sorted(name for name in names if name not in there)
