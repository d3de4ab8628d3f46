"""GPUs by name: what a run on a machine with such cards can be planned with, where none is at hand.

Memory is what the driver reports of a card, in GiB, and the rate that of dense matrix products in the 16-bit type that
the card trains in, from the manufacturers' data sheets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Card(NamedTuple):
    """One model of GPU."""

    memory_gib: float
    capability: tuple[int, int]
    """CUDA's compute capability: from 8.0 on it computes in bfloat16."""
    teraflops: float
    """Peak rate of dense 16-bit matrix products, summed in float32."""
    gigabytes_per_second: float
    """Peak rate at which it reads its memory."""
    marks: tuple[str, ...]
    """Words that the name has by which the driver calls it, in lower case."""


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "t4": Card(15.0, (7, 5), 65, 320, ("tesla t4",)),
        "v100-16": Card(16.0, (7, 0), 125, 900, ("v100", "16gb")),
        "v100-32": Card(32.0, (7, 0), 125, 900, ("v100", "32gb")),
        "rtx2080ti": Card(11.0, (7, 5), 53.8, 616, ("rtx 2080 ti",)),
        "rtx3060": Card(12.0, (8, 6), 25.6, 360, ("rtx 3060",)),
        "rtx3090": Card(24.0, (8, 6), 71, 936, ("rtx 3090",)),
        "rtx4090": Card(24.0, (8, 9), 165.2, 1008, ("rtx 4090",)),
        "rtx5090": Card(31.8, (12, 0), 209.5, 1792, ("rtx 5090",)),
        "a10": Card(22.5, (8, 6), 125, 600, ("nvidia a10",)),
        "a10g": Card(22.5, (8, 6), 70, 600, ("nvidia a10g",)),
        "l4": Card(22.5, (8, 9), 121, 300, ("nvidia l4",)),
        "l40s": Card(45.0, (8, 9), 362, 864, ("nvidia l40s",)),
        "a6000": Card(48.0, (8, 6), 154.8, 768, ("rtx a6000",)),
        "rtx6000ada": Card(48.0, (8, 9), 364, 960, ("rtx 6000 ada",)),
        "a100-40": Card(40.0, (8, 0), 312, 1555, ("a100", "40gb")),
        "a100-80": Card(80.0, (8, 0), 312, 2039, ("a100", "80gb")),
        "h100": Card(79.6, (9, 0), 989, 3350, ("h100",)),
        "h200": Card(140.4, (9, 0), 989, 4800, ("h200",)),
        "b200": Card(179.0, (10, 0), 2250, 8000, ("b200",)),
    }
)
"""Every card that `hardware.gpu` knows by name."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(GiB|GB)", re.IGNORECASE)
_NAMED_SIZE = (8, 0)


def card(name: str) -> Card | None:
    """The card of that name, or any recent one with so much memory: `24GiB`; None for anything else."""
    if (found := CARDS.get(name.lower())) is not None:
        return found
    size = _SIZE.fullmatch(name)
    return Card(float(size[1]), _NAMED_SIZE, 0, 0, ()) if size and float(size[1]) else None


def like(name: str) -> Card | None:
    """The card by our name or its driver's; None where the table does not know it."""
    if (named := card(name)) is not None:
        return named
    words = name.lower()
    known = [
        each for each in CARDS.values() if each.marks and all(re.search(rf"\b{mark}\b", words) for mark in each.marks)
    ]
    return max(known, key=lambda each: sum(map(len, each.marks)), default=None)


def rate_of(name: str) -> float:
    """The peak rate, in teraflops, of a card by our name or its driver's; 0 where the table does not know it."""
    known = like(name)
    return known.teraflops if known else 0.0
