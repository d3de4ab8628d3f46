"""Mixes hit their shares within one row, at every point, by seed alone; too little is an error and never a repeat."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ftcli.core.errors import DataError
from ftcli.data.mixture import Demand, chosen, counts, order

SIZES = st.lists(st.integers(0, 200), min_size=1, max_size=6)


def demand(name: str = "a", **asked: float) -> Demand:
    return Demand(name=name, **asked)  # type: ignore[arg-type]


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "available", "expected"),
    [
        ({}, 10, (10, 10)),
        ({"rows": 4}, 10, (4, 4)),
        ({"share_of_set": 0.25}, 10, (2, 2)),  # 2.5 → 2, the even neighbour
        ({"repeat": 3}, 10, (10, 30)),
        ({"rows": 4, "repeat": 1.5}, 10, (4, 6)),
        ({"repeat": 0.5}, 10, (10, 5)),
    ],
)
def test_a_pool_is_what_was_taken_times_how_often(asked, available, expected):
    assert demand(**asked).pool(available) == expected


def test_sets_without_a_share_give_all_and_the_others_their_share_of_the_whole():
    # b is to be a fifth: 80 / (1 - 0.2) = 100 rows, 20 of them b's
    assert counts([demand("a"), demand("b", share_of_mix=0.2)], [80, 50]) == [80, 20]


def test_where_all_have_a_share_the_scarcest_set_decides():
    # a has 30 rows for its half: 60 rows in all
    asked = [demand("a", share_of_mix=0.5), demand("b", share_of_mix=0.3), demand("c", share_of_mix=0.2)]
    assert counts(asked, [30, 1000, 1000]) == [30, 18, 12]


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 5000)), min_size=1, max_size=6))
def test_every_share_is_met_within_one_row_and_no_set_gives_more_than_it_has(sets):
    shares = [weight / sum(w for w, _ in sets) for weight, _ in sets]
    available = [rows for _, rows in sets]
    found = counts([demand(str(i), share_of_mix=share) for i, share in enumerate(shares)], available)
    assert all(abs(count - share * sum(found)) < 1 for count, share in zip(found, shares, strict=True))
    assert all(count <= rows for count, rows in zip(found, available, strict=True))
    assert sum(found) + 1 > min(rows / share for rows, share in zip(available, shares, strict=True)) - 1


@given(st.integers(1, 5000), st.integers(1, 99), st.integers(0, 100_000))
def test_a_share_beside_a_whole_set_is_met_within_one_row(whole, percent, available):
    share = percent / 100
    try:
        a, b = counts([demand("a"), demand("b", share_of_mix=share)], [whole, available])
    except DataError:
        assert whole * share / (1 - share) > available - 1
        return
    assert a == whole
    assert abs(b - share * (a + b)) < 1
    assert b <= available


def test_shares_that_add_up_but_for_rounding_lose_no_row_of_a_large_mix():
    # three times 0.333333 is 0.999999: of nine million rows that would be nine
    asked = [demand(name, share_of_mix=0.333333) for name in "abc"]
    assert counts(asked, [3_000_000] * 3) == [3_000_000] * 3


def test_too_few_rows_for_a_number_is_an_error_that_names_the_repeat():
    with pytest.raises(DataError) as caught:
        counts([demand("few", rows=30), demand("b")], [20, 5])
    [problem] = caught.value.problems
    assert problem.where == "data.mix.few.rows"
    assert "requests 30 rows of few, which has 20" in problem.what
    assert "data.mix.few.repeat=1.5" in problem.fix  # 30 / 20


def test_too_few_rows_for_a_share_is_an_error_that_names_the_repeat_that_suffices():
    # b has to be half of the mix beside 90 rows of a: 90 rows, and it has 40
    sets, available = [demand("a"), demand("b", share_of_mix=0.5)], [90, 40]
    with pytest.raises(DataError) as caught:
        counts(sets, available)
    [problem] = caught.value.problems
    assert problem.where == "data.mix.b.share_of_mix"
    assert "needs 90 rows, and b has 40" in problem.what
    assert "data.mix.b.repeat=2.25" in problem.fix  # 90 / 40
    assert counts([sets[0], demand("b", share_of_mix=0.5, repeat=2.25)], available) == [90, 90]


# --- which ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.floats(0.1, 4), st.integers(0, 3))
def test_repeats_are_spread_as_evenly_as_they_go(available, repeat, seed):
    asked = demand(repeat=repeat)
    pool = asked.pool(available)[1]
    times = Counter(chosen(asked, available, pool, seed))
    assert sum(times.values()) == pool
    assert {times[row] for row in range(available)} <= {int(repeat), int(repeat) + 1}


@given(st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 3))
def test_a_share_of_a_set_is_that_many_different_rows_in_order(available, share, seed):
    asked = demand(share_of_set=share)
    taken = asked.pool(available)[0]
    rows = chosen(asked, available, taken, seed)
    assert rows == sorted(set(rows))
    assert len(rows) == taken == round(available * share)
    assert all(0 <= row < available for row in rows)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others():
    asked = demand(rows=50)
    assert chosen(asked, 1000, 50, seed=1) == chosen(asked, 1000, 50, seed=1)
    assert chosen(asked, 1000, 50, seed=1) != chosen(asked, 1000, 50, seed=2)


def test_two_sets_of_one_size_are_drawn_independently():
    assert chosen(demand("a", rows=50), 1000, 50, seed=1) != chosen(demand("b", rows=50), 1000, 50, seed=1)


def test_one_more_set_in_the_mix_changes_nothing_about_the_rows_of_this_one():
    ours = demand("ours", rows=50, repeat=1.5)
    alone, beside = [ours], [demand("other", rows=7), ours]
    [count] = counts(alone, [1000])
    assert counts(beside, [9, 1000])[1] == count == 75
    assert chosen(ours, 1000, count, seed=4) == chosen(beside[1], 1000, count, seed=4)


# --- in which order ---------------------------------------------------------------------------------------------------


def farthest(sizes: list[int]) -> float:
    """The largest distance of any set, at any point of the mix, from its share of the rows so far."""
    total, seen, worst = sum(sizes), [0] * len(sizes), 0.0
    for place, index in enumerate(order(sizes, "interleave"), 1):
        seen[index] += 1
        distances = (abs(count - place * size / total) for count, size in zip(seen, sizes, strict=True))
        worst = max(worst, *distances)
    assert seen == sizes
    return worst


@settings(deadline=None)
@given(SIZES)
def test_every_beginning_of_the_mix_holds_the_shares_within_one_row_a_set(sizes):
    assume(sum(sizes))
    assert farthest(sizes) < 1


def test_many_small_sets_do_not_crowd_out_a_large_one():
    # Ten sets of one row would all want the middle; the large one must still have half of every beginning.
    assert farthest([1] * 10 + [10]) < 1


def test_two_to_one_is_interleaved_in_threes():
    # The first of b is due by place 3, when its share is 3 / 3 = 1; two of a are due by then too, at 2 and 3.
    assert order([4, 2], "interleave") == [0, 0, 1, 0, 0, 1]


def test_concatenating_keeps_one_set_behind_the_other():
    assert order([2, 0, 3], "concatenate") == [0, 0, 2, 2, 2]
