"""The weights of tokens through all that becomes of rows: stored late, truncated, split, packed, mixed, streamed."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftcli.worker.tokenise.packing import packed
from ftcli.worker.tokenise.truncation import parts_of
from tests.turns import assistant, user
from tests.worker.conftest import conversation, pair_of_answers, write_rows
from tests.worker.tokenise.test_token_sets import prepared


def trained_weights(rows: Any) -> list[tuple[int, float]]:
    """Each trained token with its weight, in order."""
    found = []
    for row in rows:
        given = row.get("weights") or [1.0] * len(row["labels"])
        found += [(label, weight) for label, weight in zip(row["labels"], given, strict=True) if label != -100]
    return found


def heavy(index: int, weight: float = 2.0) -> dict[str, Any]:
    return {**conversation(index), "weight": weight}


def test_rows_without_weights_have_no_column(tokenizer, tmp_path):
    rows = [{**conversation(i), "weight": 1} for i in range(4)]
    assert "weights" not in prepared(tokenizer, write_rows(tmp_path / "rows.jsonl", rows)).train.column_names
    pairs = write_rows(tmp_path / "pairs.jsonl", [pair_of_answers(i) for i in range(4)])
    assert "row_weight" not in prepared(tokenizer, pairs, "dpo").train.column_names


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_the_first_weight_of_a_set_may_come_after_the_first_chunk(method, tokenizer, tmp_path):
    make = conversation if method == "sft" else pair_of_answers
    rows = [make(i) for i in range(2100)]
    rows[2050]["weight"] = 0.5
    light = prepared(tokenizer, write_rows(tmp_path / "light.jsonl", [make(i) for i in range(2100)]), method).train
    train = prepared(tokenizer, write_rows(tmp_path / "rows.jsonl", rows), method).train
    name = "weights" if method == "sft" else "row_weight"
    assert [i for i, own in enumerate(train[name]) if own is not None] == [2050]
    assert set(np.atleast_1d(train[2050][name])) == {0.5}
    for column in light.column_names:
        assert train[column][:] == light[column][:]


@pytest.mark.parametrize("overflow", ["truncate_left", "truncate_right", "split"])
def test_weights_are_truncated_and_split_with_their_tokens(overflow):
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, 8, 9], "weights": [1.0, 0.5, 2.0, 3.0, 4.0]}
    of_token = dict(zip(row["input_ids"], row["weights"], strict=True))
    for part in parts_of(row, 3, overflow):
        assert part["weights"] == [of_token[token] for token in part["input_ids"]]
    for part in parts_of({**row, "weights": None}, 3, overflow):
        assert set(part) == {"input_ids", "labels"}


@pytest.mark.parametrize("overflow", ["truncate_left", "truncate_right", "split"])
def test_a_set_with_long_rows_keeps_its_weights(overflow, tokenizer, tmp_path):
    long = {"messages": [user("Say red."), assistant("red " * 60, weight=0.5)]}
    rows = [heavy(0), conversation(1), long]
    train = prepared(tokenizer, write_rows(tmp_path / "rows.jsonl", rows), overflow=overflow, limit=40).train
    assert {weight for _, weight in trained_weights(train)} == {0.5, 1.0, 2.0}


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_packing_keeps_the_weight_of_every_token(strategy):
    def table(rows: list[tuple[list[int], list[float] | None]]) -> pa.Table:
        ids = pa.array([ids for ids, _ in rows], pa.list_(pa.int32()))
        columns = {"input_ids": ids, "labels": ids}
        if any(own for _, own in rows):
            columns["weights"] = pa.array([own for _, own in rows], pa.list_(pa.float32()))
        return pa.table(columns)

    plain = [([n * 10 + i for i in range(1, 4)], None) for n in range(3)]
    with_some = [([101, 102], [0.5, 2.0]), ([111, 112, 113, 114], None)]
    batches = [table(plain[:2]), table(with_some), table(plain[2:])]
    blocks = list(chain.from_iterable(batch.to_pylist() for batch in packed(iter(batches), 5, strategy)))
    found = dict(trained_weights(blocks))
    expected = {token: 1.0 for ids, _ in plain + with_some for token in ids} | {101: 0.5, 102: 2.0}
    assert found == expected
    light = packed(iter([table(plain)]), 5, strategy)
    assert all("weights" not in batch.schema.names for batch in light)


def mix(tmp_path: Path) -> dict[str, Any]:
    heavy_file = write_rows(tmp_path / "heavy.jsonl", [heavy(i) for i in range(8)])
    light_file = write_rows(tmp_path / "light.jsonl", [conversation(i + 20) for i in range(8)])
    return {"light": {"path": str(light_file)}, "heavy": {"path": str(heavy_file)}}


@pytest.mark.parametrize("packing", [None, "bfd", "wrapped"])
def test_a_set_without_weights_weighs_1_beside_one_that_has_them(packing, tokenizer, tmp_path):
    found = prepared(tokenizer, mix=mix(tmp_path)).train
    weights = [weight for _, weight in trained_weights(found)]
    of_light = [weight for _, weight in trained_weights(row for row in found if not row["weights"])]
    assert set(of_light) == {1.0}
    assert weights.count(2.0) + weights.count(1.0) == len(weights)
    assert weights.count(2.0) > 0
    if packing:
        tables = iter([found.with_format("arrow")[:]])
        blocks = list(chain.from_iterable(batch.to_pylist() for batch in packed(tables, 64, packing)))
        assert sorted(trained_weights(blocks)) == sorted(trained_weights(found))


def test_a_stream_carries_weights(tokenizer, tmp_path):
    found = prepared(tokenizer, mix=mix(tmp_path), streaming=True).train
    rows = list(islice(iter(found), 16))
    assert {weight for _, weight in trained_weights(rows)} == {1.0, 2.0}
    assert sum("weights" in row for row in rows) == 8
