"""How many blocks packed rows will fill, estimated from their lengths alone.

Best fit, longest first (as TRL's `bfd`): each row goes into the fullest block that has room for it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

PACKED_TOGETHER = 1000
"""Rows that are packed with each other; the next rows start new blocks."""


def best_fit_blocks(lengths: Sequence[int], block: int) -> int:
    """Blocks of `block` tokens that rows of these lengths fill, in order, PACKED_TOGETHER at a time.

    A row that is longer than a block takes up whole ones first.
    """
    blocks = 0
    for start in range(0, len(lengths), PACKED_TOGETHER):
        room: list[int] = []  # free tokens of each open block, sorted
        for length in sorted(lengths[start : start + PACKED_TOGETHER], reverse=True):
            blocks += length // block if length > block else 0
            rest = length % block if length > block else length
            if not rest:
                continue
            place = bisect_left(room, rest)
            left = room.pop(place) - rest if place < len(room) else block - rest
            insort(room, left)
        blocks += len(room)
    return blocks
