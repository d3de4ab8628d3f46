"""Rows that are nearly the same, by MinHash over their tokens (Broder 1997); on request (`data.near_duplicates`).

A row is the set of its runs of five tokens, special tokens left out. The share of runs that two rows have in common
(their Jaccard index) is estimated from 128 hashes, to about 0.04. Rows that are equal, or equal but for case and white
space, are reported elsewhere and left out here.

Each row costs about a kilobyte while rows are compared. A row that is near an earlier one is not itself kept to compare
with, so that many copies of one row cost no more than a few.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from ftcli.data.row_ledger import NEAR, NEAR_LEAK, Ledger
from ftcli.worker.tokenise.token_sets import TokenSet

Array = np.ndarray[Any, Any]
RUN_TOKENS = 5
HASHES = 128
_SEED = 20261129
_CHUNK = 1000
_IDS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")
_BANDS = (4, 8, 16, 32, 64, 128)


def tell_near_duplicates(
    threshold: float,
    special: Collection[int],
    sets: Sequence[TokenSet],
    trained_masks: Sequence[Array],
    held: Sequence[TokenSet] = (),
    held_masks: Sequence[Array] = (),
    held_ledger: Ledger | None = None,
) -> None:
    """Report rows that are near an earlier trained row, and held-out rows that are near a trained one.

    Args:
        threshold: the least share of common runs, above 0 and up to 1.
        special: ids of tokens that every row has, which say nothing about it.
        held_ledger: takes the findings of the held-out rows.
    """
    seen = _Seen(threshold)
    for each, mask in zip(sets, trained_masks, strict=True):
        for index, runs in _rows(each, np.flatnonzero(mask), special):
            found = seen.nearest(runs, each, index, keep=True)
            if found:
                each.ledger.finding(NEAR, each.where(index), "", found)
    for each, mask in zip(held, held_masks, strict=True):
        for index, runs in _rows(each, np.flatnonzero(mask), special):
            found = seen.nearest(runs, each, index, keep=False)
            if found and held_ledger is not None:
                held_ledger.finding(NEAR_LEAK, each.where(index), "", found)


def _rows(tokens: TokenSet, rows: Array, special: Collection[int]) -> Iterator[tuple[int, list[bytes]]]:
    """Each of the rows with its runs of tokens."""
    table, left_out = tokens.entry.table(), np.array(sorted(special), np.int32)
    names = [name for name in _IDS if name in table.column_names]
    unrolled = "examples" in table.column_names
    for start in range(0, len(rows), _CHUNK):
        chosen = rows[start : start + _CHUNK]
        columns = [table.column(name).take(chosen).to_pylist() for name in names]
        examples = table.column("examples").take(chosen).to_pylist() if unrolled else repeat(None)
        for index, lists, lengths in zip(chosen, zip(*columns, strict=True), examples, strict=False):
            ids = np.array([i for each in lists for i in each], np.int32)
            ids = ids[-lengths[-1] :] if lengths else ids  # the last example holds the whole conversation
            ids = ids[~np.isin(ids, left_out)]
            last = max(1, len(ids) - RUN_TOKENS + 1)
            yield int(index), [ids[at : at + RUN_TOKENS].tobytes() for at in range(last)]


@dataclass
class _Seen:
    """The trained rows so far, and an index of them."""

    threshold: float
    kept: list[tuple[TokenSet, int, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._library = importlib.import_module("rensa")
        self._index = self._library.RMinHashLSH(
            threshold=self.threshold, num_perm=HASHES, num_bands=bands(self.threshold)
        )

    def nearest(self, runs: list[bytes], tokens: TokenSet, index: int, *, keep: bool) -> str:
        """What to report of a row, "" if it is near none; with `keep`, one that is near none is compared with later."""
        sketch = self._library.RMinHash(num_perm=HASHES, seed=_SEED)
        sketch.update(runs)
        best, place = 0.0, None
        for number in self._index.query(sketch):
            other, at, its = self.kept[number]
            if other.alike[at] == tokens.alike[index]:  # an equal row, which is reported as such
                return ""
            share = sketch.jaccard(its)
            if share >= self.threshold and share > best:
                best, place = share, (other, at)
        if place is not None:
            return f"has {best:.0%} of its text in common with {place[0].where(place[1])}"
        if keep:
            self._index.insert(len(self.kept), sketch)
            self.kept.append((tokens, index, sketch))
        return ""


def bands(threshold: float) -> int:
    """The fewest bands of the signature with which a pair at the threshold is compared in 19 of 20 cases.

    A pair with share s in common agrees on all of a band of r hashes with probability s**r.
    """
    return next((b for b in _BANDS if 1 - (1 - threshold ** (HASHES // b)) ** b >= 0.95), _BANDS[-1])
