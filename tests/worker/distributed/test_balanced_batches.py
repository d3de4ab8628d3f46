"""The rows of a step are those that were drawn, and are dealt to the processes by their length."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from ftcli.worker.distributed.balanced_batches import BalancedBatches, balance, num_tokens


def lengths(number: int) -> list[int]:
    drawn = random.Random(7)
    return [int(drawn.lognormvariate(5, 0.8)) + 1 for _ in range(number)]


def dealt(tokens: list[int], size: int, processes: int, *, drop_last: bool = False) -> list[list[int]]:
    return list(BalancedBatches(BatchSampler(range(len(tokens)), size, drop_last), tokens, processes))


@pytest.mark.parametrize(("number", "size", "processes"), [(96, 4, 2), (97, 4, 2), (100, 8, 8), (5, 4, 2), (33, 1, 4)])
def test_the_rows_of_each_step_and_the_sizes_of_batches_stay(number: int, size: int, processes: int) -> None:
    tokens = lengths(number)
    before, after = list(BatchSampler(range(number), size, False)), dealt(tokens, size, processes)
    assert [len(batch) for batch in after] == [len(batch) for batch in before]
    for first in range(0, len(before), processes):
        step = slice(first, first + processes)
        assert sorted(chain(*after[step])) == list(chain(*before[step]))
        for batch in after[step]:
            assert batch == sorted(batch), "rows of a batch keep their order"


@pytest.mark.parametrize("processes", [2, 8])
def test_no_process_waits_long_for_another(processes: int) -> None:
    tokens = lengths(64 * 8)

    def waits(batches: list[list[int]]) -> float:
        """The tokens of the longest batch of each step over the mean of all its batches."""
        sums = np.array([sum(tokens[row] for row in batch) for batch in batches]).reshape(-1, processes)
        return float(sums.max(axis=1).sum() / sums.mean(axis=1).sum())

    assert waits(list(BatchSampler(range(len(tokens)), 8, False))) > 1.15
    assert waits(dealt(tokens, 8, processes)) < 1.07


def test_every_process_is_dealt_the_same_and_the_sampler_is_still_seeded() -> None:
    tokens = lengths(40)
    rows = Dataset.from_dict({"input_ids": [[1] * each for each in tokens], "labels": [[1] * each for each in tokens]})

    def shard(index: int) -> BatchSamplerShard:
        drawn = SeedableRandomSampler(rows, data_seed=3)
        found = BatchSamplerShard(BatchSampler(drawn, 4, False), num_processes=2, process_index=index)
        balance(found, rows)
        found.batch_sampler.sampler.set_epoch(2)
        return found

    drawn = SeedableRandomSampler(rows, data_seed=3)
    drawn.set_epoch(2)
    plain = list(BatchSampler(drawn, 4, False))
    first, second = list(shard(0)), list(shard(1))
    for step, (one, two) in enumerate(zip(first, second, strict=True)):
        assert sorted(one + two) == sorted(plain[2 * step] + plain[2 * step + 1])
    assert first != plain[::2]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]], "position_ids": [[0, 1], [0]]}, [2, 1]),
        ({"prompt_ids": [[1], [2, 2]], "chosen_ids": [[1, 1], [2]], "rejected_ids": [None, [2, 2, 2]]}, [3, 6]),
        ({"text": ["a", "b"]}, None),
    ],
)
def test_the_tokens_of_a_row_are_those_that_are_computed(columns, expected) -> None:
    found = num_tokens(Dataset.from_dict(columns))
    assert (found if found is None else list(found)) == expected


@pytest.mark.parametrize(("sampler", "size", "balanced"), [
    (RandomSampler, 4, True), (SequentialSampler, 4, True), (RandomSampler, 1, False), (range, 4, False),
])  # fmt: skip
def test_only_rows_that_are_drawn_one_by_one_are_dealt_anew(sampler, size, balanced) -> None:
    rows = Dataset.from_dict({"input_ids": [[1]] * 16})
    source = range(16) if sampler is range else sampler(rows)
    shard = BatchSamplerShard(BatchSampler(source, size, False), num_processes=2)
    balance(shard, rows)
    assert isinstance(shard.batch_sampler, BalancedBatches) is balanced
