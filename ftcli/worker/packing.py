"""Rows laid end to end in blocks of one length, by TRL's packing, a chunk of rows at a time.

What packing must not do, lose or double a token, is held by a test. Rows that are longer than a block were dealt with
before, but for the strategies that cut rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable
from trl.data_utils import pack_dataset

CUTS_ROWS = ("wrapped", "bfd_split")
"""Strategies under which a row may go on in the next block."""
_CHUNK = 1000


def packed(batches: Iterator[pa.Table], length: int, strategy: str) -> Iterator[pa.RecordBatch]:
    """Blocks of at most `length` tokens: `input_ids`, `labels` and, where rows stay apart, their `seq_lengths`.

    Args:
        strategy: of TRL's packing_strategy; `wrapped` carries the rest of a chunk on into the next.
    """
    rest: pa.Table | None = None
    for table in _rechunked(batches):
        if rest is not None:
            table = pa.concat_tables([rest, table])
        blocks = _pack(table, length, strategy)
        if strategy == "wrapped":
            last = blocks.slice(blocks.num_rows - 1)
            full = len(last.column("input_ids")[0]) == length
            rest, blocks = (None, blocks) if full else (last, blocks.slice(0, blocks.num_rows - 1))
        yield from blocks.combine_chunks().to_batches()
    if rest is not None:
        yield from rest.combine_chunks().to_batches()


def _rechunked(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in batches:
        if not table.num_rows:
            continue
        waiting.append(table)
        if sum(each.num_rows for each in waiting) >= _CHUNK:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _pack(table: pa.Table, length: int, strategy: str) -> pa.Table:
    rows = Dataset(InMemoryTable(table.combine_chunks()), fingerprint="rows")
    how: dict[str, Any] = {"batch_size": None, "keep_in_memory": True, "new_fingerprint": "packed"}
    return pack_dataset(rows, length, strategy, how).with_format("arrow")[:]
