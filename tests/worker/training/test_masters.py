"""What trains is held in float32 where it is computed in bfloat16, and saved in the type of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcli.methods import get_method
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.rounded_weights import write_rounded
from ftcli.worker.training.load import load_base
from ftcli.worker.training.run import train
from ftcli.worker.training.trainer import hold_masters
from tests.worker.conftest import same_weights

STEPS = 12
SAVING: dict[str, Any] = {"save_strategy": "steps"}


def half(spec: RunSpec, *, autocast: bool) -> RunSpec:
    """The spec as on a GPU: weights in bfloat16, computed in it; a CPU does the same arithmetic."""
    return replace(spec, model=replace(spec.model, dtype="bfloat16"), train={**spec.train, "bf16": autocast})


def moved(run_dir: Path, spec: RunSpec) -> float:
    """The share of the weights that differ from the start, as the last checkpoint holds them."""
    start = load_base(spec, get_method("sft")).state_dict()
    checkpoint = max((run_dir / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    trained = load_file(checkpoint / "model.safetensors")
    pairs = [(start[name].float(), trained[name].float()) for name in trained if name in start]
    return sum(int((one != other).sum()) for one, other in pairs) / sum(one.numel() for one, _ in pairs)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_weights_move_at_the_default_rate_and_hardly_any_in_bfloat16_alone(
    method, sft_file, dpo_file, make_spec, new_run
):
    shares = {}
    for autocast in (True, False):
        spec = make_spec(
            sft_file if method == "sft" else dpo_file,
            method={"name": method},
            peft={"name": "none"},
            train={
                "learning_rate": get_method(method).training.full.at(8_000_000_000).value,
                "max_steps": STEPS,
                "save_strategy": "steps",
                "save_steps": STEPS,
            },
        )
        spec = half(spec, autocast=autocast)
        run_dir = new_run(spec, f"{method}-{autocast}")
        train(run_dir)
        shares[autocast] = moved(run_dir, spec)
    assert shares[True] > 0.95
    assert shares[False] < shares[True] / 2


def saved(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model" / "model.safetensors")


def test_the_model_is_saved_in_its_own_type_and_a_checkpoint_in_that_of_the_masters(sft_file, make_spec, new_run):
    spec = half(
        make_spec(sft_file, peft={"name": "none"}, train={"max_steps": 2, **SAVING, "save_steps": 1}),
        autocast=True,
    )
    run_dir = new_run(spec, "typed")
    train(run_dir)
    masters = load_file(run_dir / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    for name, tensor in saved(run_dir).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, masters[name].bfloat16())
    assert '"dtype": "bfloat16"' in (run_dir / "model" / "config.json").read_text()


FREEZE = {"name": "freeze", "num_layers": 1}


@pytest.mark.parametrize("peft", [{"name": "none"}, FREEZE], ids=["full", "freeze"])
def test_a_run_with_masters_resumes_bit_for_bit(peft, sft_file, make_spec, new_run):
    options: dict[str, Any] = {
        "peft": peft,
        "train": {"max_steps": 4, **SAVING, "save_steps": 2, "learning_rate": 1e-3},
    }
    spec = half(make_spec(sft_file, **options), autocast=True)
    whole = new_run(spec, "whole")
    train(whole)
    again = new_run(spec, "again")
    train(again, whole / "checkpoints" / "checkpoint-2")
    assert same_weights(whole, again)


def test_a_file_is_rounded_in_place_beside_tensors_that_already_have_the_type(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {"master": torch.randn(64, 64), "frozen": torch.randn(512, 512).bfloat16(), "ids": torch.arange(9)}
    save_file(tensors, file)
    write_rounded(file, file, torch.bfloat16)
    found = load_file(file)
    assert torch.equal(found["master"], tensors["master"].bfloat16())
    assert torch.equal(found["frozen"], tensors["frozen"])
    assert torch.equal(found["ids"], tensors["ids"])
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


def test_frozen_weights_stay_short_beside_the_masters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).bfloat16()
    model[0].requires_grad_(False)
    hold_masters(model)
    assert [parameter.dtype for parameter in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
