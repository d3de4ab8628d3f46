"""Two processes learn and measure what one does, in every hardware profile, resume bit for bit, save the whole model.

`make test` proves a sample, `make matrix` all of it, kept in benchmarks/results/layouts.json after each cell: what is
there is not run again, unless FTCLI_AGAIN=1. A part: `FTCLI_MATRIX=1 python -m pytest tests/matrix -k dpo-none-fsdp`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.common import RESULTS, save, versions
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from tests.matrix.layouts import CELLS, LAYOUTS, ONE, SAMPLING, SPREAD, Run
from tests.ranks import Ranks, evaluations, steps

WHOLE = os.environ.get("FTCLI_MATRIX") == "1"
FILE = RESULTS / "layouts.json"
LOSS_TOLERANCE = 1e-5
"""Of a loss above 1, this share of it: float32 holds seven digits."""
Trained = Callable[[Run, str], Path]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What came of each cell."""
    if not (WHOLE and FILE.is_file()):
        return {}
    known: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
    return known


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ranks_of: Ranks) -> Trained:
    """Trains each run in each layout once."""
    folder = tmp_path_factory.mktemp("layouts")

    def train(run: Run, layout: str) -> Path:
        at = folder / f"{run}-{layout}".replace(" ", "-")
        if not at.exists():
            spec = spec_of(Request(overrides=(*run.words, *LAYOUTS[layout], f"run.dir={at}")))
            at.mkdir()
            (at / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
            ranks_of(module_of(run), "train", str(at), cwd=folder, number=spec.launch.num_processes)
        return at

    return train


def module_of(run: Run) -> str:
    """The worker; where answers are sampled, one that draws alike in every layout."""
    return "tests.common_draws" if run.method in SAMPLING else "ftcli.worker"


def weights(folder: Path) -> Path:
    """The saved weights, of a model or an adapter, in one file."""
    (file,) = folder.glob("*.safetensors")
    return file


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("run", "layout"), CELLS if WHOLE else SPREAD, ids=str)
def test_two_processes_learn_what_one_does_resume_and_save_the_whole_model(
    run: Run, layout: str, trained: Trained, found: dict[str, Any], tmp_path: Path, ranks_of: Ranks
) -> None:
    name = f"{run}-{layout}"
    if WHOLE and name in found and "failed" not in found[name] and os.environ.get("FTCLI_AGAIN") != "1":
        return
    if layout.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    found[name] = result = {"method": run.method, "peft": run.peft, "layout": layout}
    try:
        spec_of(Request(overrides=(*run.words, *LAYOUTS[layout], f"run.dir={tmp_path / 'run'}")))
    except ConfigError as error:
        result["refused"] = error.problems[0].what
        keep(found)
        return
    try:
        result["difference"] = proved(run, layout, trained, tmp_path, ranks_of)
    except BaseException as error:
        result["failed"] = f"{type(error).__name__}: {error}".strip()[-300:]
        raise
    finally:
        keep(found)


def proved(run: Run, layout: str, trained: Trained, tmp_path: Path, ranks_of: Ranks) -> float:
    """Show what is to be shown of a cell; the largest difference of a training or held-out loss from that of one
    process, in shares of it where it is above 1."""
    several, one = trained(run, layout), trained(run, ONE)
    ours, theirs = ([step["loss"] for step in steps(each)] for each in (several, one))
    assert len(ours) == len(theirs) == 4
    assert all(theirs), f"equal because there is nothing to learn: {theirs}"
    measured, wanted = ([line["eval_loss"] for line in evaluations(each)] for each in (several, one))
    assert len(measured) == len(wanted) == (0 if run.method in SAMPLING else 2)
    ours, theirs = ours + measured, theirs + wanted
    difference = max(abs(mine - other) / max(1, abs(other)) for mine, other in zip(ours, theirs, strict=True))
    resumed = Path(shutil.copytree(several, tmp_path / "resumed"))
    shutil.rmtree(resumed / rundir.CHECKPOINTS / "checkpoint-4")
    shutil.rmtree(resumed / rundir.MODEL)
    (resumed / rundir.RESULT).unlink()
    middle = resumed / rundir.CHECKPOINTS / "checkpoint-2"
    ranks_of(module_of(run), "train", str(resumed), "--resume", str(middle), cwd=tmp_path, number=2)
    assert weights(resumed / rundir.MODEL).read_bytes() == weights(several / rundir.MODEL).read_bytes(), "resumed"
    mine, whole = (load_file(weights(each / rundir.MODEL)) for each in (several, one))
    assert mine.keys() - whole.keys() <= {"lm_head.weight"}  # which DeepSpeed saves beside the embedding it is
    assert {key: mine[key].shape for key in whole} == {key: tensor.shape for key, tensor in whole.items()}
    assert all(mine[key].dtype == tensor.dtype for key, tensor in whole.items())
    assert difference < LOSS_TOLERANCE, f"losses {ours}, of one process {theirs}"
    return difference


def keep(found: dict[str, Any]) -> None:
    """Written after each cell, so that a run that is interrupted loses nothing."""
    if WHOLE:
        ordered = {f"{run}-{layout}": found[f"{run}-{layout}"] for run, layout in CELLS if f"{run}-{layout}" in found}
        save("layouts", {"schema": 1, "versions": versions(), "of": len(CELLS), "cells": ordered})
