"""Rows that occur twice where they should not: in two sets of a mixture, or both held out and trained on."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from ftcli.data.row_ledger import ALIKE, DUPLICATE, LEAK, LEAK_ALIKE, MOST_SHOWN, Ledger, Shown
from ftcli.data.scan import repeated
from ftcli.worker.tokenise.token_sets import TokenSet

Array = np.ndarray[Any, Any]
_LEAKS = (
    ("digest", LEAK, "the same row"),
    ("asked", LEAK, "the same prompt"),
    ("alike", LEAK_ALIKE, "a row that is written a little differently"),
    ("asked_alike", LEAK_ALIKE, "a prompt that is written a little differently"),
)
"""Columns of a set that are compared, and how a hit is reported."""


def tell_duplicates_across(sets: Sequence[TokenSet]) -> None:
    """Report rows that an earlier set also contains; duplicates within a set were reported when it was read.

    If a row occurs several times in the later set, only its first occurrence is reported here, for the same reason.
    """
    if len(sets) < 2:
        return
    number = np.concatenate([np.full(len(each), index) for index, each in enumerate(sets)])
    inside = np.concatenate([np.arange(len(each)) for each in sets])
    exact, alike = (
        array("Q", np.concatenate([getattr(each, name) for each in sets]).tobytes()) for name in ("digest", "alike")
    )
    for kind, digests, beside, words in (
        (DUPLICATE, exact, None, "is the same as"),
        (ALIKE, alike, exact, "is written a little differently in"),
    ):
        reported = set[tuple[int, int]]()
        for index, first in repeated(digests, beside):
            one = (int(number[index]), digests[index])
            if number[index] != number[first] and one not in reported:
                reported.add(one)
                here, there = sets[number[index]], sets[number[first]]
                what = f"{words} {there.where(inside[first])} of {there.row_set.name}"
                here.ledger.finding(kind, here.where(inside[index]), "", what)


def tell_leaks(
    ledger: Ledger,
    held: Sequence[TokenSet],
    held_masks: Sequence[Array],
    trained: Sequence[TokenSet],
    trained_masks: Sequence[Array],
) -> None:
    """Report held-out rows that are also trained on, or whose prompt is trained on with another answer."""
    told = {name: _values(trained, trained_masks, name) for name in ("digest", "asked", "alike", "asked_alike")}
    for each, mask in zip(held, held_masks, strict=True):
        own = np.flatnonzero(mask)
        # A row is reported once, in its closest form.
        left = np.ones(len(own), bool)
        for name, kind, words in _LEAKS:
            values = getattr(each, name)[own]
            hit = np.isin(values, told[name]) & (values != 0) & left
            left &= ~hit
            shown = ledger.findings.setdefault(kind, Shown()) if hit.any() else Shown()
            for index in own[hit][: MOST_SHOWN - len(shown.first)]:
                where = _where(trained, trained_masks, name, getattr(each, name)[index])
                shown.add(each.where(index), "", f"{words} is trained on: {where}")
                shown.rows -= 1
            shown.rows += int(hit.sum())


def _values(sets: Sequence[TokenSet], masks: Sequence[Array], name: str) -> Array:
    return np.concatenate([getattr(each, name)[mask] for each, mask in zip(sets, masks, strict=True)])


def _where(sets: Sequence[TokenSet], masks: Sequence[Array], name: str, value: Any) -> str:
    for each, mask in zip(sets, masks, strict=True):
        found = np.flatnonzero((getattr(each, name) == value) & mask)
        if len(found):
            return each.where(int(found[0]))
    raise LookupError(value)
