"""Packing loses and doubles no token, keeps each label with its token, and keeps rows whole where it says so."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcli.worker.tokenise import packing
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.tokenise.packing import CUTS_ROWS, packed

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None)
STRATEGIES = ("bfd", "bfd_split", "wrapped")
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})


def table(lengths: list[int], first: int = 0) -> pa.Table:
    """Rows of these lengths; every token is a number of its own, and every third is not trained."""
    starts = list(accumulate(lengths, initial=first))
    ids = [list(range(start, end)) for start, end in pairwise(starts)]
    labels = [[IGNORED if token % 3 == 0 else token for token in row] for row in ids]
    return pa.table({"input_ids": ids, "labels": labels}, schema=SCHEMA)


def tables(lengths: list[int], size: int) -> list[pa.Table]:
    """The same rows in tables of `size` rows; each but the first is a part of a larger one, as datasets hands them."""
    whole = table(lengths)
    return [whole.slice(at, size) for at in range(0, len(lengths), size)]


def blocks_of(batches: list[pa.Table], length: int, strategy: str) -> list[dict[str, Any]]:
    return [block for batch in packed(iter(batches), length, strategy) for block in batch.to_pylist()]


def rows_of(block: dict[str, Any]) -> list[list[int]]:
    """The rows inside a block, by its seq_lengths."""
    ends = list(accumulate(block["seq_lengths"], initial=0))
    return [block["input_ids"][start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@FEW
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), length=st.integers(5, 20), size=st.integers(1, 9))
def test_no_token_is_lost_or_doubled_and_blocks_fit(strategy, lengths, length, size):
    if strategy not in CUTS_ROWS:  # longer rows were dealt with before
        lengths = [min(each, length) for each in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK_ROWS", 7)  # so that few rows are several chunks
        blocks = blocks_of(tables(lengths, size), length, strategy)
    assert sorted(token for block in blocks for token in block["input_ids"]) == list(range(sum(lengths)))
    assert all(0 < len(block["input_ids"]) <= length for block in blocks)
    for block in blocks:
        assert block["labels"] == [IGNORED if token % 3 == 0 else token for token in block["input_ids"]]
        assert sum(block["seq_lengths"]) == len(block["input_ids"])


@FEW
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40), size=st.integers(1, 9))
def test_best_fit_keeps_every_row_whole(lengths, size):
    blocks = blocks_of(tables(lengths, size), 12, "bfd")
    found = sorted(row for block in blocks for row in rows_of(block))
    assert found == table(lengths).column("input_ids").to_pylist()


@FEW
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), size=st.integers(1, 9))
def test_split_best_fit_cuts_only_rows_that_are_longer_than_a_block(lengths, size):
    blocks = blocks_of(tables(lengths, size), 12, "bfd_split")
    # 30 tokens in blocks of 12 → 12, 12, 6
    parts = [
        row[at : at + 12] for row in table(lengths).column("input_ids").to_pylist() for at in range(0, len(row), 12)
    ]
    assert sorted(row for block in blocks for row in rows_of(block)) == parts


@FEW
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), size=st.integers(1, 9))
def test_wrapping_keeps_the_order_and_fills_every_block_but_the_last(lengths, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK_ROWS", 7)
        blocks = blocks_of(tables(lengths, size), 12, "wrapped")
    assert [token for block in blocks for token in block["input_ids"]] == list(range(sum(lengths)))
    assert all(len(block["input_ids"]) == 12 for block in blocks[:-1])
    # A boundary at each document's end and at each block's, and nowhere else.
    ends = set(accumulate(length for block in blocks for length in block["seq_lengths"]))
    assert ends == {*accumulate(lengths), *range(12, sum(lengths), 12)}


def test_best_fit_wastes_no_block():
    # 4 + 8 and 5 + 7 fill two blocks of 12
    assert [len(block["input_ids"]) for block in blocks_of([table([4, 5, 7, 8])], 12, "bfd")] == [12, 12]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tables_without_rows_are_passed_over(strategy):
    empty = SCHEMA.empty_table()
    blocks = blocks_of([empty, table([3, 2]), empty], 5, strategy)
    assert [sorted(block["input_ids"]) for block in blocks] == [[0, 1, 2, 3, 4]]
    assert blocks_of([empty], 5, strategy) == []
