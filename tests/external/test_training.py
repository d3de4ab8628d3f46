"""The real demo sets train unedited, through the same composition as the command line, for a few steps each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.launch.local import prepare
from tests.conftest import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real demo sets in {DATA.parent.name}/data")


def train(*overrides: str, run: Path) -> dict:
    """Train in this process with one thread and small batches."""
    from ftcli.worker.training.run import train as work

    few = (
        "train.max_steps=2",
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=1",
        "hardware.num_threads=1",
        "run.score_rows=0",
    )
    spec = spec_of(Request(overrides=(*overrides, *few, f"run.dir={run}")))
    return work(prepare(spec, ["train", *overrides]))


def test_alpaca_trains_unedited(tmp_path):
    result = train(f"data.path={DATA / 'alpaca_en_demo.json'}", run=tmp_path / "run")
    ledger = result["ledger"]["train"]
    assert ledger["rows_read"] == ledger["rows_kept"] == 999
    assert ledger["format"] == "alpaca"
    assert result["steps"] == 2


def test_preference_pairs_train_unedited_and_long_rows_are_counted(tmp_path):
    # the rows are a thousand tokens and more, which two steps of a test need not go through
    words = ("method=dpo", "data.max_length_tokens=1024", f"data.path={DATA / 'dpo_en_demo.json'}")
    result = train(*words, run=tmp_path / "run")
    ledger = result["ledger"]["train"]
    assert ledger["rows_read"] == 300
    assert ledger["rows_kept"] + sum(ledger["dropped"].values()) == 300
    assert sum(ledger["dropped"].values()) > 0
    assert result["loss_first"] == pytest.approx(0.693147, abs=1e-4)


def test_plain_text_pretrains_unedited(tmp_path):
    result = train("method=pretrain", f"data.path={DATA / 'c4_demo.jsonl'}", run=tmp_path / "run")
    assert result["ledger"]["train"]["rows_read"] == 300
    assert not result["ledger"]["train"]["dropped"]


@pytest.mark.parametrize("method", ["orpo", "reward"])
def test_preference_pairs_train_without_a_reference_and_into_a_score(method, tmp_path):
    words = (f"method={method}", "data.max_length_tokens=1024", f"data.path={DATA / 'dpo_en_demo.json'}")
    result = train(*words, run=tmp_path / "run")
    assert result["steps"] == 2
    assert result["ledger"]["train"]["rows_read"] == 300


def test_labels_train_unedited(tmp_path, capfd):
    words = ("method=kto", "data.max_length_tokens=1024", f"data.path={DATA / 'kto_en_demo.json'}")
    result = train(*words, run=tmp_path / "run")
    ledger = result["ledger"]["train"]
    assert ledger["rows_kept"] + sum(ledger["dropped"].values()) == ledger["rows_read"] == 300
    told = capfd.readouterr().err
    good, bad = (int(count) for count in re.search(r"labels +(\d+) good, (\d+) bad", told).groups())
    assert good + bad == ledger["rows_kept"]
