"""`check` keeps its word: 40 random changes of one field in `make test`, 2,000 in `make matrix`, each with its seed.

A run that `check` passed must train; one that it refused must fail in the worker too, or be of a kind that the manual
states (a field that another setting owns, a setting without effect, a bound, a type, a word). The shares are written
down by kind, so that refusing everything would be seen. Again for one seed: `python -m tests.matrix.fuzz 7 8 LOG`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import save
from ftcli.methods import all_methods
from tests.matrix.fuzz import Outcome, carry_out, draw, summary

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
NUM_CHANGES = 2_000 if WHOLE else 40


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[Outcome]]:
    """What came of the changes; written down when all have been carried out."""
    found: list[Outcome] = []
    yield found
    if WHOLE and len(found) == NUM_CHANGES:
        save("fuzz", summary(found))


@pytest.mark.parametrize("seed", range(NUM_CHANGES))
def test_a_change_that_check_passes_trains_and_one_that_it_refuses_does_not(
    seed: int, tmp_path: Path, warm: Any, outcomes: list[Outcome]
) -> None:
    outcome = carry_out(draw(seed), tmp_path, warm)
    outcomes.append(outcome)
    assert not outcome.fault


def test_changes_are_spread_evenly_over_methods_and_fields() -> None:
    changes = [draw(seed) for seed in range(4_000)]
    methods = Counter(change.method for change in changes)
    assert set(methods) == set(all_methods())
    assert max(methods.values()) < 2 * min(methods.values())
    # 15 methods with some 160 fields each, 4,000 draws: nearly every field is drawn for some method.
    assert len({change.name for change in changes}) > 230
    assert draw(7) == draw(7)


def test_the_summary_counts_by_kind_and_names_what_check_was_wrong_about() -> None:
    change = draw(7)
    said = [Outcome(change), Outcome(change, code=1), Outcome(change, "train.x is owned by seed"),
            Outcome(change, "no reason"), Outcome(change, "no reason", code=1), Outcome(change, code=2),
            Outcome(change, code=7)]  # fmt: skip
    found = summary(said)
    assert found["drawn"] == 7
    ends = {"trained": 1, "failed": 1, "refused by the worker": 1, "loss or gradient not a number": 1}
    assert found["passed"] == ends
    assert found["refused"] == {"owned": 1, "trains": 1, "the worker fails too": 1}
    assert (found["failed"], found["wrongly_refused"]) == ([str(change)], [str(change)])
