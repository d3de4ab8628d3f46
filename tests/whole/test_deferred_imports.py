"""A worker imports what its run needs: the modules of a real one are read when it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftcli.runs import rundir
from tests.conftest import REPOSITORY
from tests.whole.conftest import Train

# Python runs a file of this name wherever it starts; here each worker writes down what it has executed.
_AT_THE_END = """
import atexit, json, os, sys

def tell():
    if "ftcli.worker" in sys.modules:
        from ftcli.worker.process.deferred_imports import loaded
        with open(os.environ["TOLD"], "w", encoding="utf-8") as file:
            json.dump([sorted(loaded()), sorted(sys.modules)], file)

atexit.register(tell)
"""
TRAIN = (
    "train", "hardware=cpu", "hardware.num_threads=1", "train.max_steps=2", "train.save_strategy=no", "peft=lora",
    "data.max_rows=32", "data.max_eval_rows=8", "run.score_rows=0", "run.dir=run",
)  # fmt: skip


@pytest.fixture
def worker_of(tmp_path: Path, ftcli_run: Train):
    """Run a command; returns the needless modules that its worker executed, and all that it imported."""
    (tmp_path / "sitecustomize.py").write_text(_AT_THE_END, encoding="utf-8")

    def run(*words: str) -> tuple[set[str], set[str]]:
        told = tmp_path / "told.json"
        told.unlink(missing_ok=True)
        ftcli_run(*words, cwd=tmp_path, TOLD=str(told), PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
        needless, imported = json.loads(told.read_text(encoding="utf-8"))
        return set(needless), set(imported)

    return run


def test_sft_with_an_adapter_and_its_evaluation_import_nothing_that_they_do_not_need(worker_of):
    needless, imported = worker_of(*TRAIN)
    assert {"torch", "trl", "peft"} <= imported
    assert needless == set()
    needless, imported = worker_of("eval", "run", "--rows", "4")
    assert {"torch", "peft"} <= imported
    assert needless == set()


def test_dpo_with_an_adapter_imports_nothing_that_it_does_not_need(worker_of):
    needless, imported = worker_of(*TRAIN, "method=dpo")
    assert "trl.trainer.dpo_trainer" in imported
    assert needless == set()


def test_a_quantised_base_is_trained_with_bitsandbytes(worker_of, tmp_path):
    needless, imported = worker_of(*TRAIN, "quantisation=nf4")
    assert "bitsandbytes" in needless
    assert "bitsandbytes.nn.modules" in imported
    assert rundir.read_result(tmp_path / "run")["steps"] == 2
    # Its evaluation reads from the run that the base was quantised.
    assert "bitsandbytes" in worker_of("eval", "run", "--rows", "4")[0]


def test_an_8_bit_optimiser_is_that_of_bitsandbytes(worker_of, tmp_path):
    needless, imported = worker_of(*TRAIN, "train.optim=adamw_8bit")
    assert "bitsandbytes" in needless
    assert "bitsandbytes.optim.adamw" in imported
    assert rundir.read_result(tmp_path / "run")["steps"] == 2
