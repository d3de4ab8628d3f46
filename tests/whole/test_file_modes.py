"""Every file that a command writes has the mode that the user's umask gives, weights too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli.runs import rundir
from ftcli.runs.file_modes import as_created
from tests.whole.conftest import Train

BRIEF = (
    "train.max_steps=2", "train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=no",
    "data.max_rows=24", "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
PIPELINE = (
    "train", "method=rlhf", *BRIEF, "stages.reward.train.max_steps=1", "stages.ppo.train.max_steps=1",
    "run.dir=pipeline",
)  # fmt: skip


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def odd_modes(folder: Path, umask: int) -> dict[str, str]:
    """What below a folder has another mode than `open` and `mkdir` give."""
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 5
    due = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}
    modes = {path: path.stat().st_mode & 0o777 for path in paths}
    return {str(path): oct(modes[path]) for path in paths if modes[path] != due[path]}


def test_the_files_of_runs_and_merged_models_follow_the_umask(umask: int, tmp_path: Path, ftcli_run: Train):
    ftcli_run("train", "peft=lora", *BRIEF, "run.dir=adapter", cwd=tmp_path)
    ftcli_run("merge", "adapter", cwd=tmp_path)
    ftcli_run("train", "peft=none", *BRIEF, "run.dir=full", cwd=tmp_path)
    for weights in ("adapter/model/adapter_model", "adapter/merged/model", "full/checkpoints/checkpoint-2/model"):
        assert (tmp_path / f"{weights}.safetensors").is_file()
    for run in ("adapter", "full"):
        assert (tmp_path / run / rundir.RESULT).is_file()
        assert odd_modes(tmp_path / run, umask) == {}


def test_the_files_of_a_pipeline_follow_the_umask(umask: int, tmp_path: Path, ftcli_run: Train):
    if umask == 0o022 and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof takes both; a single run is made under both anyway")
    ftcli_run(*PIPELINE, cwd=tmp_path)
    assert (tmp_path / "pipeline" / "ppo" / rundir.CHECKPOINTS / "checkpoint-1" / "critic.safetensors").is_file()
    assert odd_modes(tmp_path / "pipeline", umask) == {}


def test_a_file_that_only_its_owner_reads_gets_the_mode_of_a_new_one_in_its_folder(umask: int, tmp_path: Path):
    (tmp_path / "deep").mkdir()
    files = [tmp_path / "weights", tmp_path / "deep" / "weights"]
    for file in files:
        file.touch(0o600)
    as_created(files)
    assert [oct(file.stat().st_mode & 0o777) for file in files] == [oct(0o666 & ~umask)] * 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "weights", "weights"]
