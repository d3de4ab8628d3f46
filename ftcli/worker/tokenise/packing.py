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

    Blocks have `weights` from the first chunk on in which a row has them.

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
    rest: dict[str, np.ndarray[Any, Any]] = {}
    rest_ends = np.empty(0, np.int64)
    for table in _rechunked(batches):
        left = len(rest.get("input_ids", ()))
        ends = np.concatenate([rest_ends, np.cumsum(pc.list_value_length(table.column("input_ids")).to_numpy()) + left])
        lists = {name: _flat(table, name) for name in table.column_names}
        if "weights" in lists or "weights" in rest:
            lists.setdefault("weights", np.ones(len(lists["input_ids"]), np.float32))
            rest.setdefault("weights", np.ones(left, np.float32))
        lists = {name: np.concatenate([rest[name], own]) if name in rest else own for name, own in lists.items()}
        whole = len(lists["input_ids"]) // length * length
        if whole:
            # An end exactly at `whole` needs no cut of its own: a block ends there anyway.
            yield _blocks({name: own[:whole] for name, own in lists.items()}, ends[ends < whole], length)
        rest = {name: own[whole:] for name, own in lists.items()}
        rest_ends = ends[ends > whole] - whole
    if len(rest.get("input_ids", ())):
        yield _blocks(rest, rest_ends[:-1], length)


def _flat(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(pc.list_flatten(table.column(name)).to_numpy())


def _blocks(lists: dict[str, np.ndarray[Any, Any]], ends: np.ndarray[Any, Any], length: int) -> pa.RecordBatch:
    """Blocks of `length` tokens, each with the lengths of the document pieces in it.

    Args:
        lists: `input_ids`, `labels` and perhaps `weights` of all blocks, each of shape (N,).
        ends: positions in them after which a new document begins.
    """
    num_tokens = len(lists["input_ids"])
    starts = np.arange(0, num_tokens, length)
    # A piece begins where a block begins or a document has ended.
    cuts = np.union1d(starts, ends)
    pieces = np.diff(np.append(cuts, num_tokens))
    offsets = pa.array(np.append(starts, num_tokens), pa.int32())
    # Every block start is itself a cut, so its index among the cuts is the index of the block's first piece.
    of_pieces = pa.array(np.append(np.searchsorted(cuts, starts), len(cuts)), pa.int32())
    return pa.record_batch(
        {
            **{
                name: pa.ListArray.from_arrays(
                    offsets, pa.array(own, pa.float32() if name == "weights" else pa.int32())
                )
                for name, own in lists.items()
            },
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
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(tables: list[pa.Table]) -> pa.Table:
    """Tables as one; where any row has weights, every row gets them, which are 1 unless it has its own."""
    table = pa.concat_tables(tables, promote_options="default")
    if "weights" not in table.column_names:
        return table
    weights = table.column("weights")
    if weights.null_count == weights.length():
        return table.drop_columns("weights")
    if weights.null_count:
        lengths = pc.list_value_length(table.column("input_ids")).to_pylist()
        filled = [own or [1.0] * length for own, length in zip(weights.to_pylist(), lengths, strict=True)]
        table = table.set_column(table.column_names.index("weights"), "weights", pa.array(filled, weights.type))
    return table


def _pack(table: pa.Table, length: int, strategy: str) -> pa.Table:
    rows = Dataset(InMemoryTable(table.combine_chunks()), fingerprint="rows")
    how: dict[str, Any] = {"batch_size": None, "keep_in_memory": True, "new_fingerprint": "packed"}
    return pack_dataset(rows, length, strategy, how).with_format("arrow")[:]
