"""`check` keeps its word: 40 random changes of one field in `make test`, 2,000 in `make matrix`, each with its seed.

A run that `check` passed must train; one that it refused must fail in the worker too, or be of a kind that the manual
states (a field that another setting owns, a setting without effect, a bound, a type, a word). The shares are written
down by kind, so that refusing everything would be seen. Again for one seed: `python -m tests.matrix.fuzz 7 8`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import save, versions
from ftcli.methods import all_methods
from tests.matrix.fuzz import carry_out, draw

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
NUM_CHANGES = 2_000 if WHOLE else 40


@pytest.fixture(scope="module")
def kinds() -> Iterator[Counter[str]]:
    """How many changes ended in each way; written down when all have been carried out."""
    found: Counter[str] = Counter()
    yield found
    if WHOLE and found.total() == NUM_CHANGES:
        ended = dict(found.most_common())
        save("fuzz", {"schema": 1, "versions": versions(), "changes": NUM_CHANGES, "ended": ended})


@pytest.mark.parametrize("seed", range(NUM_CHANGES))
def test_a_change_that_check_passes_trains_and_one_that_it_refuses_does_not(
    seed: int, tmp_path: Path, warm: Any, kinds: Counter[str]
) -> None:
    outcome = carry_out(draw(seed), tmp_path, warm)
    kinds[outcome.kind] += 1
    assert not outcome.fault


def test_changes_are_spread_evenly_over_methods_and_fields() -> None:
    changes = [draw(seed) for seed in range(4_000)]
    methods = Counter(change.method for change in changes)
    assert set(methods) == set(all_methods())
    assert max(methods.values()) < 2 * min(methods.values())
    # 15 methods with some 160 fields each, 4,000 draws: nearly every field is drawn for some method.
    assert len({change.name for change in changes}) > 230
    assert draw(7) == draw(7)
