"""`data.max_length_tokens=auto`: the rule, worked by hand, and the reason that is shown with it."""

from __future__ import annotations

import pytest

from ftcli.data.auto_length import auto_length
from ftcli.data.row_ledger import quantiles


@pytest.mark.parametrize(
    ("p99", "longest", "limit", "value", "why"),
    [
        # the longest is not twice p99: all rows are held, rounded up to 64
        (100, 200, None, 256, "holds all rows (p99 100, longest 200), within no known model limit"),
        (100, 192, 4096, 192, "holds all rows (p99 100, longest 192), within the model's 4096"),
        # it is more than twice p99: one row is not worth that much memory, 100 → 128
        (100, 201, 4096, 128, "holds 99 % of the rows (p99 100, longest 201), within the model's 4096"),
        (100, 5000, 4096, 128, "holds 99 % of the rows (p99 100, longest 5000), within the model's 4096"),
        # the model ends before the rows do
        (3000, 5000, 2048, 2048, "the model's limit; all rows would need 5000"),
        (3000, 9000, 2048, 2048, "the model's limit; 99 % of the rows would need 3000"),
        # 250 would be rounded up to 256, beyond a limit of 252 which holds it as well
        (250, 250, 252, 252, "the model's limit; all rows would need 250"),
    ],
)
def test_the_length_is_worked_out_from_the_quantiles_and_the_limit(p99, longest, limit, value, why):
    assert auto_length({"p99": p99, "max": longest}, limit, None) == (value, why)


def test_blocks_are_as_long_as_the_method_says_or_the_model_takes():
    rows = {"p99": 10, "max": 10}
    assert auto_length(rows, 8192, 1024) == (1024, "blocks of 1024, within the model's 8192")
    assert auto_length(rows, 512, 1024)[0] == 512
    assert auto_length({}, None, 1024) == (1024, "blocks of 1024, within no known model limit")


def test_without_rows_the_models_limit_stands_alone():
    assert auto_length({}, 2048, None) == (2048, "the model's 2048")
    assert auto_length({}, None, None)[0] == 4096


def test_quantiles_are_lengths_that_rows_have():
    # 0, 1, …, 100 once each: the share is the length
    assert quantiles(dict.fromkeys(range(101), 1)) == {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    # 99 rows of 10 and one of 500: the hundredth row is beyond p99
    assert quantiles({500: 1, 10: 99}) == {"min": 10, "p50": 10, "p90": 10, "p99": 10, "max": 500}
    assert quantiles({7: 1}) == dict.fromkeys(("min", "p50", "p90", "p99", "max"), 7)
    assert quantiles({}) == {}
