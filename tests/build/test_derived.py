"""Values that are derived from others."""

from __future__ import annotations

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request


@pytest.mark.parametrize(
    ("overrides", "expected", "noted"),
    [
        ((), 8, False),  # of 8 rows that train
        (("train.per_device_train_batch_size=16",), 8, False),
        (("train.per_device_train_batch_size=4",), 8, False),
        (("train.per_device_train_batch_size=3",), 6, True),
        (("train.per_device_train_batch_size=1",), 2, True),
        (("train.per_device_train_batch_size=1", "train.per_device_eval_batch_size=5"), 5, False),
        # Of methods that sample, answers come in groups.
        (("method=grpo", "train.per_device_train_batch_size=4", "method.num_generations=4"), 8, False),
    ],
)
def test_an_evaluation_has_at_most_twice_the_rows_that_train(overrides, expected, noted):
    spec = spec_of(Request(overrides=("hardware=cpu", *overrides)))
    assert spec.train["per_device_eval_batch_size"] == expected
    assert any(note.key == "train.per_device_eval_batch_size" for note in spec.notes) == noted
