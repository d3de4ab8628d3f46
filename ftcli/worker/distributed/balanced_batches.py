"""Of the rows of one step, each process computes about as many tokens as the others, so that none waits for long.

The rows of a step, their order over an epoch and the number of rows of each process stay as they are: only which of
them is computed where is chosen by length. What all processes compute together is the same sum in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import RandomSampler, SequentialSampler

_ROWS_AT_ONCE = 100_000
"""Rows whose tokens are in memory together while they are counted."""


def balance(shard: BatchSamplerShard, rows: Any) -> None:
    """Balance the batches that are dealt to the processes, where rows are drawn one by one and have their tokens."""
    drawn = getattr(shard.batch_sampler, "sampler", None)
    if isinstance(rows, Dataset) and isinstance(drawn, (RandomSampler, SequentialSampler)):
        tokens = num_tokens(rows)
        if tokens is not None and shard.batch_sampler.batch_size > 1:
            shard.batch_sampler = BalancedBatches(shard.batch_sampler, tokens, shard.num_processes)


def num_tokens(rows: Dataset) -> np.ndarray | None:
    """Tokens of each row, those of a pair's prompt once; None where rows hold none."""
    lists = [field.name for field in rows.features.arrow_schema if _holds_ids(field)]
    if not lists:
        return None
    parts = rows.select_columns(lists).with_format("arrow").iter(_ROWS_AT_ONCE)
    return np.concatenate([sum(_lengths(part[name]) for name in lists) for part in parts])


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return found


def _holds_ids(field: pa.Field) -> bool:
    listed: bool = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    name: str = field.name
    return listed and name.endswith("_ids") and name != "position_ids"


class BalancedBatches:
    """Batches of a sampler; so many in a row as there are processes hold the same rows, dealt by length."""

    def __init__(self, batches: Any, tokens: Sequence[int] | np.ndarray, processes: int) -> None:
        self._batches, self._tokens, self._processes = batches, tokens, processes

    @property
    def sampler(self) -> Any:
        """That which draws the rows, as accelerate asks for it to seed it."""
        return self._batches.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self._batches.sampler = sampler

    @property
    def batch_size(self) -> int:
        """Rows of a batch."""
        return int(self._batches.batch_size)

    @property
    def drop_last(self) -> bool:
        """Whether a last batch that is not full is left out."""
        return bool(self._batches.drop_last)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        together: list[list[int]] = []
        for batch in self._batches:
            together.append(batch)
            if len(together) == self._processes:
                yield from self._dealt(together)
                together = []
        yield from together  # at the end, for which there are not processes enough

    def _dealt(self, batches: list[list[int]]) -> list[list[int]]:
        """The same rows, the longest first to the batch with the fewest tokens that has room; each in its old order."""
        if len({len(batch) for batch in batches}) > 1:
            return batches
        rows = [row for batch in batches for row in batch]
        size, cost = len(batches[0]), [int(self._tokens[row]) for row in rows]
        taken: list[list[int]] = [[] for _ in batches]
        sums = [0] * len(batches)
        for place in sorted(range(len(rows)), key=lambda place: (-cost[place], place)):
            least = min((n for n in range(len(batches)) if len(taken[n]) < size), key=lambda n: (sums[n], n))
            taken[least].append(place)
            sums[least] += cost[place]
        return [[rows[place] for place in sorted(places)] for places in taken]
