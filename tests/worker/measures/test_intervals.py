"""Intervals over rows: Wilson's for shares, the bootstrap for other means, paired for two models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftcli.worker.measures import intervals


def test_a_share_has_wilsons_interval_also_where_no_row_is_a_hit():
    # n = 10, p = 0.5, z = 1.96: centre 0.5, half width 1.96 / (1 + 0.38415) * sqrt(0.025 + 0.0096) = 0.2634
    found = intervals.estimate([1, 0] * 5)
    assert (found["low"], found["high"]) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))
    # p = 0: low 0, high z² / (n + z²) = 3.8415 / 13.8415
    none = intervals.estimate([0.0] * 10)
    assert (none["low"], none["high"]) == (0.0, pytest.approx(0.2775, abs=1e-3))
    assert none["interval"] == intervals.WILSON


def test_a_bootstrap_is_as_wide_as_the_standard_error_says():
    rows = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = intervals.estimate([*rows])
    # 1.96 * 1 / sqrt(400) = 0.098 on each side
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * rows.std() / 20, rel=0.1)
    assert found == intervals.estimate([*rows])  # drawn by a seed of its own
    assert found["interval"] == intervals.BOOTSTRAP


def test_two_models_are_compared_row_by_row():
    hard = np.random.default_rng(2).normal(0.0, 5.0, 100)
    apart = intervals.estimate([*hard])
    paired = intervals.difference([*hard], [*(hard + 0.5)])
    assert (paired["value"], paired["low"], paired["high"]) == (
        pytest.approx(0.5),
        pytest.approx(0.5),
        pytest.approx(0.5),
    )
    assert apart["high"] - apart["low"] > 1  # what is hard for one is hard for the other


def test_a_perplexity_weighs_every_token_the_same():
    # 3 tokens at 1 nat and 1 token at 5 nats: exp(8 / 4)
    found = intervals.perplexity([3.0, 5.0], [3, 1])
    assert found["value"] == pytest.approx(math.exp(2))
    assert (found["low"], found["high"]) == (pytest.approx(math.e), pytest.approx(math.exp(5)))
    same = intervals.perplexity_difference([3.0, 5.0], [3.0, 5.0], [3, 1])
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_kinds_weigh_the_same_whatever_their_rows():
    # -1 over four rows and +0.5 over one: (-1 + 0.5) / 2
    found = intervals.difference_of_kinds({"a": [0.0] * 4, "b": [0.0]}, {"a": [-1.0] * 4, "b": [0.5]})
    assert (found["value"], found["low"], found["rows"]) == (-0.25, -0.25, 5)


def test_a_standard_error_gives_its_interval():
    assert intervals.of_error(0.5, 0.1, 7)["high"] == pytest.approx(0.696, abs=1e-3)
