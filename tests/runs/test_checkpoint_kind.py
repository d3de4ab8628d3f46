"""What a checkpoint must hold by the kind of its run, and what is no checkpoint whatever its name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ftcli.runs.checkpoint_kind import CheckpointKind, needed_files
from ftcli.runs.checkpoints import (
    MANIFEST,
    Damaged,
    checkpoint_path,
    newest_valid,
    rotate,
    seal,
    set_aside_newer,
    sweep_staging,
    verify,
)
from tests.runs.test_checkpoints import FILES, ONE, names, save, stage

ZERO = "global_step*/*zero_pp_rank_{}_mp_rank_*_optim_states.pt"
# What each kind must have, and, where that is a pattern, a file that it stands for.
KINDS: dict[str, tuple[CheckpointKind, dict[str, str]]] = {
    "adapter": (
        CheckpointKind(adapter=True),
        dict.fromkeys(("adapter_exact.pt", "adapter_config.json", "adapter_model.safetensors"), ""),
    ),
    "two processes": (
        CheckpointKind(processes=2),
        {f"{name}_state_{rank}.{end}": "" for rank in (0, 1) for name, end in (("rng", "pth"), ("process", "pt"))},
    ),
    "float16": (CheckpointKind(scaled=True), {"scaler.pt": ""}),
    "critic": (CheckpointKind(critic=True), {"critic.safetensors": ""}),
    "reference that follows": (CheckpointKind(synced_reference=True), {"reference.pt": ""}),
    "fsdp": (
        CheckpointKind(processes=2, library="fsdp", critic=True),
        dict.fromkeys(("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "critic_optimizer_1.pt"), ""),
    ),
    "zero2": (
        CheckpointKind(processes=2, library="deepspeed", zero=True),
        {
            "latest": "",
            "global_step*/*model_states.pt": "global_step3/mp_rank_00_model_states.pt",
            ZERO.format(0): "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            ZERO.format(1): "global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        },
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_run_says_what_a_checkpoint_must_have(tmp_path: Path, name: str):
    kind, own = KINDS[name]
    needs = needed_files(kind)
    files = {need: own.get(need) or need.split("|")[0] for need in needs}
    assert own.keys() <= files.keys()
    assert verify(save(tmp_path, 1, tuple(files.values())), needs=needs) == []
    for step, need in enumerate(own, 2):
        rest = tuple(file for each, file in files.items() if each != need)
        with pytest.raises(ValueError, match="was never saved"):
            seal(stage(tmp_path, step, rest), checkpoint_path(tmp_path, step), needs)
        (reason,) = verify(save(tmp_path, step, rest), needs=needs)
        assert reason.startswith(f"{need} was never saved")
    # The checkpoint of a full run in one process agrees with its manifest and is none of this run.
    assert verify(save(tmp_path, 50), needs=needs) != []


def test_weights_in_several_files_are_all_there(tmp_path: Path):
    parts = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}})
    for step, present in ((1, parts), (2, parts[:1])):
        staged = stage(tmp_path, step, (*(file for file in FILES if file != "model.safetensors"), *present))
        (staged / "model.safetensors.index.json").write_text(index)
        seal(staged, checkpoint_path(tmp_path, step), ONE)
    assert verify(checkpoint_path(tmp_path, 1), needs=ONE) == []
    assert verify(checkpoint_path(tmp_path, 2), needs=ONE) == [
        f"{parts[1]} was never saved (model.safetensors.index.json names it)"
    ]


def linked(path: Path, target: Path) -> None:
    path.rename(target)
    path.symlink_to(target)


ODD = {
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("x")), "it is a file, not a folder"),
    "a link": (lambda p: linked(p, p.with_name("elsewhere")), "it is a link, not a folder"),
    "a broken link": (lambda p: (shutil.rmtree(p), p.symlink_to("nowhere")), "it is a link, not a folder"),
    "a pipe": (lambda p: (shutil.rmtree(p), os.mkfifo(p)), "it is a pipe, socket or device, not a folder"),
    "a linked file": (
        lambda p: linked(p / "optimizer.pt", p.with_name("optimizer.pt")),
        "optimizer.pt is a link, not a file",
    ),
    "a linked manifest": (lambda p: linked(p / MANIFEST, p.with_name(MANIFEST)), "manifest.json is a link, not a file"),
    "a folder that is a link": (lambda p: (p / "more").symlink_to(p.parent), "more is a link, not a file"),
    "a pipe inside": (lambda p: os.mkfifo(p / "more"), "more is a pipe, socket or device, not a file"),
    "a pipe for a file": (
        lambda p: ((p / "optimizer.pt").unlink(), os.mkfifo(p / "optimizer.pt")),
        "optimizer.pt is a pipe, socket or device, not a file",
    ),
    "added weights": (lambda p: (p / "adapter_exact.pt").write_text("x"), "adapter_exact.pt is not in the manifest"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_folder_of_plain_files_is_passed_over_by_name(tmp_path: Path, name: str):
    spoil, reason = ODD[name]
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    spoil(path)
    assert newest_valid(tmp_path, ONE) == (tmp_path / "checkpoint-1", [Damaged(path, (reason,))])
    # A run that goes on from the one before sets it aside, saves that step again, and counts its own.
    assert [each.name for each in set_aside_newer(tmp_path, 1)] == [".damaged-checkpoint-2"]
    save(tmp_path, 2)
    rotate(tmp_path, 1)
    assert newest_valid(tmp_path, ONE) == (tmp_path / "checkpoint-2", [])
    assert names(tmp_path) == ["checkpoint-2"]


@pytest.mark.parametrize("name", ["a file", "a link", "a broken link", "a pipe"])
def test_what_stands_in_the_place_of_a_checkpoint_makes_room_and_never_counts_as_the_newest(tmp_path: Path, name: str):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    ODD[name][0](path)
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-1"]
    save(tmp_path, 2)
    assert newest_valid(tmp_path, ONE) == (tmp_path / "checkpoint-2", [])
    (tmp_path / ".staging-model").symlink_to(tmp_path / "checkpoint-2")
    sweep_staging(tmp_path)
    assert newest_valid(tmp_path, ONE) == (tmp_path / "checkpoint-2", [])
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
