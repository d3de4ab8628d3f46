"""The hold-out split: which rows are held out, drawn by seed, whole groups at a time."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def held_out(groups: Sequence[int], share: float, seed: int) -> list[bool]:
    """Whether each row is held out of training: at least one row, never all.

    Args:
        groups: a number per row; rows with equal numbers stay together, and each 0 is a group of its own.
        share: of the rows to hold out. Drawn groups fill it as far as they fit; if none fits, the smallest is taken.
    """
    num_rows = len(groups)
    count = min(max(1, round(share * num_rows)), num_rows - 1)
    if count <= 0:
        return [False] * num_rows
    if not any(groups):
        drawn = frozenset(Random(seed).sample(range(num_rows), count))
        return [index in drawn for index in range(num_rows)]
    members: dict[int, int] = {}
    for index, group in enumerate(groups):
        name = group or -1 - index
        members[name] = members.get(name, 0) + 1
    if len(members) == 1:
        return [False] * num_rows
    names = list(members)
    Random(seed).shuffle(names)
    taken, size = set[int](), 0
    for name in names:
        if len(taken) < len(names) - 1 and size + members[name] <= count:
            taken.add(name)
            size += members[name]
    taken = taken or {min(names, key=members.__getitem__)}
    return [(group or -1 - index) in taken for index, group in enumerate(groups)]
