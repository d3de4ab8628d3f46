"""Every initialisation of LoRA: what it starts from, what is saved, merged, resumed and compared with a reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ftcli.core.errors import InterruptedRun
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.peft_methods.initialisations import INITIALISATIONS
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.merge import merge
from ftcli.worker.models.load import load_model, load_trained
from ftcli.worker.training.run import train
from ftcli.worker.tuners import layer_statistics
from tests.worker.conftest import same_weights
from tests.worker.training.test_run import interrupt_at

NF4 = QuantisationSettings(type="nf4", compute_dtype="float32")
PROBE = torch.arange(5, 29)[None]
STARTS = {
    name: {
        "name": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear",
        "init_lora_weights": {"true": True, "false": False}.get(name, name.replace("[number of iters]", "4")),
    }
    for name in INITIALISATIONS
}  # fmt: skip
FROM_ROWS = [name for name, each in INITIALISATIONS.items() if each.looks_at]


def specified(name: str, make_spec: Any, path: Any, **more: Any) -> Any:
    spec = make_spec(path, peft=STARTS[name], **more)
    return replace(spec, quantisation=NF4) if name == "loftq" else spec


def logits_of(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=PROBE, attention_mask=torch.ones_like(PROBE)).logits.float().clone()


@pytest.mark.parametrize("name", [name for name in STARTS if name not in ("false", "loftq")])
def test_every_start_is_the_base(name, models, sft_file, make_spec, new_run, look):
    base = logits_of(load_model(ModelSettings(name_or_path=str(models["llama"])), seed=0, device="cpu"))
    seen: list[torch.Tensor] = []
    look(start=lambda trainer: seen.append(logits_of(trainer.model)))
    train(new_run(specified(name, make_spec, sft_file, train={"max_steps": 1}), "run"))
    assert torch.allclose(seen[0], base, atol=2e-5)


@pytest.mark.parametrize("name", STARTS)
def test_every_start_is_saved_and_merged_for_the_model_that_everybody_has(
    name, sft_file, make_spec, new_run, look, tmp_path
):
    final: list[torch.Tensor] = []
    look(end=lambda model: final.append(logits_of(model)))
    spec = specified(name, make_spec, sft_file)
    run_dir = new_run(spec, "run")
    result = train(run_dir)
    assert result["loss_last"] < result["loss_first"]
    stored = {"seed": 99, "device": "cpu", "quantisation": spec.quantisation}
    again = load_trained(ModelSettings(name_or_path=str(run_dir)), **stored)
    assert torch.equal(logits_of(again), final[0])
    if name == "loftq":
        return
    merged = merge({"models": [str(run_dir)], "to": str(tmp_path / "merged")})
    assert merged["differences"][0]["largest_difference"] < 1e-5
    whole = load_model(ModelSettings(name_or_path=merged["model"]), seed=0, device="cpu")
    assert torch.allclose(logits_of(whole), final[0], atol=2e-5)


@pytest.mark.parametrize("name", [name for name in STARTS if name not in ("true", "gaussian", "pissa")])
def test_every_start_resumes_bit_for_bit(name, sft_file, make_spec, new_run, monkeypatch):
    spec = specified(name, make_spec, sft_file, train={"max_steps": 5})
    whole, broken = new_run(spec, "whole"), new_run(spec, "broken")
    expected = train(whole)
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(InterruptedRun):
            train(broken)
    checkpoint, _ = newest_valid(broken / rundir.CHECKPOINTS, files_to_resume(spec))
    # What was found is read again, not looked for again.
    monkeypatch.setattr(layer_statistics, "find", None)
    assert train(broken, resume=checkpoint)["loss_last"] == expected["loss_last"]
    assert same_weights(whole, broken)


@pytest.mark.parametrize("precomputed", [False, True], ids=["", "precomputed"])
@pytest.mark.parametrize("name", [name for name in STARTS if name not in ("true", "false", "gaussian")])
def test_dpo_starts_at_ln_2_from_every_start(name, precomputed, dpo_file, make_spec, new_run):
    # The policy is its own reference at the first step: −log σ(0) = ln 2 = 0.6931.
    method = {"name": "dpo", "precompute_ref_log_probs": precomputed}
    spec = specified(name, make_spec, dpo_file, method=method, train={"max_steps": 2}, eval_share=0.25)
    result = train(new_run(spec, "run"))
    assert result["loss_first"] == pytest.approx(math.log(2), abs=1e-5)
    assert result["loss_last"] != pytest.approx(math.log(2), abs=1e-5)
