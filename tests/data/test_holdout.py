"""Held-out rows: by seed alone, whole groups, at least one row and never all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcli.data.holdout import held_out


@given(st.integers(2, 500), st.floats(0.001, 0.999), st.integers(0, 5))
def test_the_share_is_met_to_the_row_but_for_one_row_on_either_side(num_rows, share, seed):
    found = held_out([0] * num_rows, share, seed)
    assert sum(found) == min(max(1, round(share * num_rows)), num_rows - 1)
    assert found == held_out([0] * num_rows, share, seed)


def test_another_seed_holds_out_others():
    assert held_out([0] * 100, 0.2, 1) != held_out([0] * 100, 0.2, 2)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_there_is_nothing_to_hold_out_of_one_row(num_rows):
    assert held_out([0] * num_rows, 0.5, 0) == [False] * num_rows


@given(st.lists(st.integers(1, 20), min_size=2, max_size=200), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_group_is_never_on_both_sides(groups, share, seed):
    found = held_out(groups, share, seed)
    sides: dict[int, set[bool]] = {}
    for group, held in zip(groups, found, strict=True):
        sides.setdefault(group, set()).add(held)
    assert all(len(side) == 1 for side in sides.values())
    if len(sides) > 1:
        assert 0 < sum(found) < len(groups)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=200), st.floats(0.01, 0.99), st.integers(0, 3))
def test_groups_never_exceed_the_share_unless_the_smallest_does(groups, share, seed):
    sizes = Counter(groups)
    wanted = min(max(1, round(share * len(groups))), len(groups) - 1)
    if len(sizes) > 1:
        assert sum(held_out(groups, share, seed)) <= max(wanted, min(sizes.values()))


@pytest.mark.parametrize("seed", range(10))
def test_one_large_group_is_not_held_out_for_a_small_share(seed):
    # 5 % of 100 rows is 5; the groups have 90, 6 and 4 rows
    groups = [1] * 90 + [2] * 6 + [3] * 4
    assert sum(held_out(groups, 0.05, seed)) == 4
    # 1 % is 1 row, less than any group: the smallest it is
    assert sum(held_out(groups, 0.01, seed)) == 4


def test_a_single_group_cannot_be_parted():
    assert held_out([7] * 5, 0.5, 0) == [False] * 5


def test_rows_without_a_group_stand_each_alone():
    found = held_out([0, 0, 0, 0, 9, 9], 0.5, 3)
    assert sum(found) == 3
    assert found[4] == found[5]
