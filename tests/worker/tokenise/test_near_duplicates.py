"""Rows that have most of their text in common are found among all rows, and across the hold-out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.methods import get_method
from ftcli.settings.groups import DataSettings, ModelSettings
from ftcli.worker.models.load import make_encoder
from ftcli.worker.tokenise.dataset import prepare
from ftcli.worker.tokenise.length_limits import Fitting
from ftcli.worker.tokenise.near_duplicates import HASHES, bands

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"]


def story(first: int, changed: int = 0) -> str:
    """Sixty words; of the last, `changed` are other ones."""
    words = [f"{WORDS[(first * 7 + i * i + i * first) % len(WORDS)]}{i}" for i in range(60)]
    return " ".join([*words[: 60 - changed], *(f"other{i}" for i in range(changed))])


def ledgers(folder: Path, texts: list[str], held: list[str] | None = None, **settings: Any) -> tuple[Any, Any]:
    """The ledgers of the training and the held-out rows."""
    paths = {"path": texts, "eval_path": held or []}
    for name, own in paths.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in own)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    files = {name: str(folder / f"{name}.jsonl") for name, own in paths.items() if own}
    encoder = make_encoder(ModelSettings(name_or_path="builtin:tiny"))
    data = DataSettings(**files, **settings)
    found = prepare(data, get_method("sft"), encoder, Fitting(2048, "drop"), seed=1)
    return found.train_ledger, found.held_out_ledger


def test_a_row_with_most_of_its_text_in_an_earlier_one_is_named_with_the_share(tmp_path):
    train, _ = ledgers(tmp_path, [story(1), story(2), story(1, changed=2)], near_duplicates=0.7)
    near = train.findings["near-duplicate"]
    assert near.rows == 1
    assert near.first[0]["where"].endswith("path.jsonl:3")
    assert near.first[0]["what"].endswith("path.jsonl:1")
    # 2 of 60 words at the end differ: about 58/62 of the runs are common.
    assert 0.8 <= int(near.first[0]["what"].split("%")[0].removeprefix("has ")) / 100 <= 1.0


def test_a_row_with_half_of_its_text_in_common_is_none(tmp_path):
    train, _ = ledgers(tmp_path, [story(1), story(1, changed=30)], near_duplicates=0.7)
    assert "near-duplicate" not in train.findings


def test_equal_rows_are_duplicates_and_not_near_ones(tmp_path):
    train, _ = ledgers(tmp_path, [story(1), story(1), story(1).upper()], near_duplicates=0.7)
    assert train.findings["duplicate"].rows == 1
    assert "near-duplicate" not in train.findings


def test_a_held_out_row_near_a_training_row_is_a_leak(tmp_path):
    train, held = ledgers(tmp_path, [story(1), story(2)], [story(3), story(2, changed=2)], near_duplicates=0.7)
    assert "near-duplicate" not in train.findings
    assert held.findings["near leak"].rows == 1
    assert held.findings["near leak"].first[0]["where"].endswith("eval_path.jsonl:2")


def test_nobody_is_compared_unless_asked(tmp_path):
    train, _ = ledgers(tmp_path, [story(1), story(1, changed=2)])
    assert "near-duplicate" not in train.findings


def test_many_copies_cost_no_more_than_a_few(tmp_path):
    train, _ = ledgers(
        tmp_path, [story(1), *(story(1, changed=1) + f" end{i}" for i in range(200))], near_duplicates=0.8
    )
    assert train.findings["near-duplicate"].rows == 200


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_pairs_at_the_threshold_are_compared(threshold):
    assert 1 - (1 - threshold ** (HASHES // bands(threshold))) ** bands(threshold) >= 0.95
