"""Trackers keep the curve of metrics.jsonl: each read back by its own reader, also after a resume, nothing anywhere
else, and nothing of it changes what is trained."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcli.runs import rundir
from tests.conftest import REPOSITORY
from tests.ranks import TIMEOUT_SECONDS, environment
from tests.whole.conftest import Train

for package in ("tensorboard", "wandb", "trackio", "mlflow"):
    pytest.importorskip(package, reason=f"pip install 'ftcli[{package}]'")

NAMES = ("tensorboard", "wandb", "trackio", "mlflow")
WORDS = (
    "model=tiny", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=64", "data.max_eval_rows=8",
    "run.score_rows=0", "train.logging_steps=1", "train.eval_strategy=steps", "train.eval_steps=2",
    "train.save_strategy=steps", "train.save_steps=2",
)  # fmt: skip
SECRET = "abcdefabcdefabcdefabcdefabcdefabcdefabcd"
ELSEWHERE = {
    "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": SECRET,
    "TRACKIO_SPACE_ID": "someone/else", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_TRACKING_TOKEN": SECRET,
}  # fmt: skip
"""Variables of a user who sends other things elsewhere: a run of ours sends nothing that no setting names."""


def kept(run: Path) -> dict[str, Any]:
    """What each tracker kept of a run."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.kept_curves", str(run)], env=environment(PYTHONPATH=path), capture_output=True,
        text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def curve(run: Path) -> dict[tuple[str, int], float]:
    """Every number of metrics.jsonl by its name and step; a line of an evaluation repeats the epoch and the clock."""
    found: dict[tuple[str, int], float] = {}
    for text in (run / rundir.METRICS).read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        for name, value in line.items():
            if name not in ("schema", "step") and value is not None:
                found.setdefault((name, line["step"]), value)
    return found


def assert_same_curve(run: Path) -> dict[str, Any]:
    """Each tracker has every number once, and no other."""
    expected, found = curve(run), kept(run)
    assert set(found) == set(NAMES)
    assert {step for _, step in expected} == {1, 2, 3, 4}
    assert {"loss", "eval_loss", "learning_rate", "grad_norm", "tokens"} <= {name for name, _ in expected}
    for name, told in found.items():
        single = {key: struct.unpack("f", struct.pack("f", value))[0] for key, value in expected.items()}
        points = {(key, step): value for key, step, value in told["points"]}
        assert len(points) == len(told["points"]), name
        assert points == (single if name == "tensorboard" else expected), name
    return found


def test_four_trackers_keep_the_curve_of_metrics_also_after_a_resume(ftcli_run: Train, tmp_path: Path):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **ELSEWHERE}
    words = (f"run.trackers=[{','.join(NAMES)}]", "run.tracking.wandb.project=letters", *WORDS)
    ftcli_run("train", *words, "train.max_steps=4", "run.dir=run", cwd=here, real=True, **own)
    run = here / "run"
    result = rundir.read_result(run)
    assert result is not None
    assert result["trackers"] == {name: {"last_step": 4} for name in NAMES}
    found = assert_same_curve(run)
    spec = json.loads((run / rundir.SPEC).read_text(encoding="utf-8"))
    for name, told in found.items():
        assert told["name"] == "sft-tiny/run", name
        config = told["config"]
        rate = config["train.learning_rate"] if name == "mlflow" else config["train"]["learning_rate"]
        assert float(rate) == spec["train"]["learning_rate"], name
    assert found["wandb"]["host"] == "ftcli"
    # As where it was killed in the fourth step: the last checkpoint is older than what was logged.
    for name in ("checkpoint-4", "checkpoint-3"):
        shutil.rmtree(run / rundir.CHECKPOINTS / name, ignore_errors=True)
    (run / rundir.RESULT).unlink()
    again = ftcli_run("train", "--resume", "run", cwd=here, real=True, **own)
    assert "step 3/4" in again.stderr
    assert "step 1/4" not in again.stderr
    assert {told.get("id") for told in assert_same_curve(run).values()} == {found["wandb"]["id"], None}
    # Nothing lies anywhere else, and no key anywhere at all.
    assert [path.name for path in here.iterdir()] == ["run"]
    left = [path for path in home.rglob("*") if path.is_file() and "ftcli" not in path.relative_to(home).parts]
    assert left == []
    assert not [path for path in run.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not [path for path in (run / rundir.TRACKERS).rglob("*") if path.is_symlink()]


def test_what_is_trained_is_the_same_with_trackers_and_without(ftcli_run: Train, tmp_path: Path):
    words = (*WORDS, "train.max_steps=3")
    ftcli_run("train", f"run.trackers=[{','.join(NAMES)}]", *words, "run.dir=a", cwd=tmp_path, real=True)
    ftcli_run("train", *words, "run.dir=b", cwd=tmp_path)
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "b" / rundir.TRACKERS).exists()
    assert "trackers" not in (rundir.read_result(tmp_path / "b") or {})
