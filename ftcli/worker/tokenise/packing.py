"""Packing: rows laid end to end in blocks of one length, a chunk of rows at a time.

`bfd` and `bfd_split` are TRL's packing; `wrapped` is ours. A test checks that packing neither loses nor duplicates a
token. Rows longer than a block were truncated, split or dropped before, except for the strategies that split rows
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import InMemoryTable
from trl.data_utils import pack_dataset

from ftcli.data.packing_estimate import PACKED_TOGETHER

CUTS_ROWS = ("wrapped", "bfd_split")
"""Strategies under which a row may continue in the next block."""
CHUNK_ROWS = PACKED_TOGETHER


def packed(batches: Iterator[pa.Table], length: int, strategy: str) -> Iterator[pa.RecordBatch]:
    """Blocks of at most `length` tokens: `input_ids`, `labels`, and the `seq_lengths` of the documents in them.

    Args:
        strategy: `wrapped` fills every block to the end and continues a document in the next; `bfd` and `bfd_split` are
            TRL's.
    """
    if strategy == "wrapped":
        yield from _wrapped(batches, length)
        return
    for table in _rechunked(batches):
        yield from _pack(table, length, strategy).combine_chunks().to_batches()


def _wrapped(batches: Iterator[pa.Table], length: int) -> Iterator[pa.RecordBatch]:
    """Documents end to end in blocks that are all full except the last.

    A document that continues in the next block counts as a new one there, without sight of its beginning. TRL's
    strategy of the same name keeps no boundaries at all, so that a document would see those before it.
    """
    # The tokens, labels and document ends that do not fill a block yet; they start the next chunk's first block.
    rest: list[np.ndarray[Any, Any]] = [np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)]
    for table in _rechunked(batches):
        ends = np.cumsum(pc.list_value_length(table.column("input_ids")).to_numpy()) + len(rest[0])
        ids = np.concatenate([rest[0], _flat(table, "input_ids")])
        labels = np.concatenate([rest[1], _flat(table, "labels")])
        ends = np.concatenate([rest[2], ends])
        whole = len(ids) // length * length
        if whole:
            # An end exactly at `whole` needs no cut of its own: a block ends there anyway.
            yield _blocks(ids[:whole], labels[:whole], ends[ends < whole], length)
        rest = [ids[whole:], labels[whole:], ends[ends > whole] - whole]
    if len(rest[0]):
        yield _blocks(rest[0], rest[1], rest[2][:-1], length)


def _flat(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(pc.list_flatten(table.column(name)).to_numpy())


def _blocks(
    ids: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], ends: np.ndarray[Any, Any], length: int
) -> pa.RecordBatch:
    """Blocks of `length` tokens, each with the lengths of the document pieces in it.

    Args:
        ids: tokens of all blocks, of shape (N,), as are the labels.
        ends: positions in `ids` after which a new document begins.
    """
    starts = np.arange(0, len(ids), length)
    # A piece begins where a block begins or a document has ended.
    cuts = np.union1d(starts, ends)
    pieces = np.diff(np.append(cuts, len(ids)))
    offsets = pa.array(np.append(starts, len(ids)), pa.int32())
    # Every block start is itself a cut, so its index among the cuts is the index of the block's first piece.
    of_pieces = pa.array(np.append(np.searchsorted(cuts, starts), len(cuts)), pa.int32())
    return pa.record_batch(
        {
            "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int32())),
            "labels": pa.ListArray.from_arrays(offsets, pa.array(labels, pa.int32())),
            "seq_lengths": pa.ListArray.from_arrays(of_pieces, pa.array(pieces, pa.int64())),
        }
    )


def _rechunked(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `_CHUNK`: best fit only fills blocks well if it sees many rows at once."""
    waiting: list[pa.Table] = []
    for table in batches:
        if not table.num_rows:
            continue
        waiting.append(table)
        if sum(each.num_rows for each in waiting) >= CHUNK_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _pack(table: pa.Table, length: int, strategy: str) -> pa.Table:
    rows = Dataset(InMemoryTable(table.combine_chunks()), fingerprint="rows")
    how: dict[str, Any] = {"batch_size": None, "keep_in_memory": True, "new_fingerprint": "packed"}
    return pack_dataset(rows, length, strategy, how).with_format("arrow")[:]
