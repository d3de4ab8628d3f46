"""What the installed libraries do wrong with adapters, each shown beside the run of ours that does it right.

The traps were found by running TRL and PEFT as they come. Of each, this file holds that it is mended and, where that is
one call, that the libraries still have it: an upgrade that mends one turns a test red, and the mending can go.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AdaptionPromptConfig, CPTConfig, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ftcli.core.errors import InterruptedRun
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.eval import evaluate
from ftcli.worker.commands.merge import merge
from ftcli.worker.models.bitsandbytes_layers import bitsandbytes_config
from ftcli.worker.models.load import load_model, load_trained
from ftcli.worker.training.run import train
from ftcli.worker.tuners.residual import REFERENCE, Residual
from tests.worker.conftest import LORA, conversation, same_weights, weights
from tests.worker.training.test_run import interrupt_at

PROBE = torch.arange(5, 29)[None]
PISSA = {"name": "pissa", "r": 4, "lora_alpha": 4, "init_lora_weights": "pissa", "target_modules": "all-linear"}
NITER = {**PISSA, "init_lora_weights": "pissa_niter_4"}
OLORA = {**PISSA, "name": "lora", "init_lora_weights": "olora"}
ADALORA = {
    "name": "adalora", "init_r": 6, "target_r": 3, "lora_alpha": 12, "deltaT": 1, "orth_reg_weight": 0.1,
    "target_modules": "all-linear", "tinit": 1, "tfinal": 2,
}  # fmt: skip
LORAPLUS = {**LORA, "name": "loraplus", "loraplus_lr_ratio": 16.0}
P_TUNING = {"name": "p_tuning", "num_virtual_tokens": 4, "encoder_hidden_size": 16, "encoder_dropout": 0.1}
PREFIX = {"name": "prefix", "num_virtual_tokens": 4, "encoder_hidden_size": 16}
NF4 = QuantisationSettings(type="nf4", compute_dtype="float32")
MATRICES = 2 * 7  # two layers with seven linear modules each


def logits_of(model: Any) -> torch.Tensor:
    """Of a fixed sequence, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=PROBE, attention_mask=torch.ones_like(PROBE)).logits
    return found.clone()


def declared(run_dir: Path) -> dict[str, Any]:
    """The adapter_config.json that a run saved."""
    found: dict[str, Any] = json.loads((run_dir / "model/adapter_config.json").read_text(encoding="utf-8"))
    return found


# --- trap 2: a start that changes the base changes the reference ------------------------------------------------------


@pytest.mark.parametrize("precomputed", [False, True], ids=["", "precomputed"])
@pytest.mark.parametrize("peft", [PISSA, NITER, OLORA], ids=["pissa", "pissa_niter", "olora"])
def test_dpo_starts_at_ln_2_though_the_adapter_took_something_out_of_the_base(
    peft, precomputed, dpo_file, make_spec, new_run
):
    # The policy is its reference at the first step: −log σ(0) = ln 2 = 0.6931.
    method = {"name": "dpo", "precompute_ref_log_probs": precomputed}
    spec = make_spec(dpo_file, method=method, peft=peft, train={"max_steps": 2}, eval_share=0.25)
    result = train(new_run(spec, "run"))
    assert result["loss_first"] == pytest.approx(math.log(2), abs=1e-5)
    assert result["loss_last"] != pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("precomputed", [False, True], ids=["", "precomputed"])
def test_without_that_the_reference_is_the_residual(precomputed, dpo_file, make_spec, new_run, monkeypatch):
    # TRL alone: with the adapter off, what is left is W − BA and no longer W.
    monkeypatch.setattr(Residual, "trainer_made", lambda self, trainer: None)
    method = {"name": "dpo", "precompute_ref_log_probs": precomputed}
    result = train(new_run(make_spec(dpo_file, method=method, peft=PISSA, train={"max_steps": 1}), "run"))
    assert result["loss_first"] != pytest.approx(math.log(2), abs=1e-4)


def test_the_reference_stays_where_it_began(dpo_file, make_spec, new_run, look, monkeypatch):
    start: dict[str, torch.Tensor] = {}
    seen: list[Any] = []

    def at_start(trainer: Any) -> None:
        start.update({n: p.detach().clone() for n, p in trainer.model.named_parameters() if f".{REFERENCE}." in n})
        seen.append(trainer.model)

    look(start=at_start)
    monkeypatch.setattr(Residual, "settle", lambda *_: None)  # which would take the reference off
    train(new_run(make_spec(dpo_file, method={"name": "dpo"}, peft=PISSA, train={"max_steps": 3}), "run"))
    now = dict(seen[0].named_parameters())
    assert len(start) == 2 * MATRICES
    assert all(torch.equal(now[name], tensor) and not now[name].requires_grad for name, tensor in start.items())


# --- an adapter that fits a base nobody has ---------------------------------------------------------------------------


@pytest.mark.parametrize("peft", [NITER, {**NITER, "use_rslora": True}, OLORA], ids=["niter", "rslora", "olora"])
def test_what_a_pissa_run_saves_is_a_plain_lora_that_fits_everyones_base(
    peft, sft_file, make_spec, new_run, look, tmp_path
):
    final: list[torch.Tensor] = []
    look(end=lambda model: final.append(logits_of(model)))
    run_dir = new_run(make_spec(sft_file, peft=peft, eval_share=0.25), "run")
    result = train(run_dir)
    # B A − B₀ A₀ has rank 2 · 4; under α/r the scale stays 4/4 = 8/8, under α/√r it stays 4/√4 = 4√2/√8.
    found = declared(run_dir)
    assert (found["peft_type"], found["r"], found["init_lora_weights"]) == ("LORA", 8, True)
    assert found["lora_alpha"] == pytest.approx(4 * math.sqrt(2) if peft.get("use_rslora") else 8)
    assert all(tensor.shape[0 if "lora_A" in name else 1] == 8 for name, tensor in weights(run_dir).items())
    again = load_trained(ModelSettings(name_or_path=str(run_dir)), seed=99, device="cpu")
    assert torch.equal(logits_of(again), final[0])
    measured = evaluate({"run": str(run_dir)})
    assert measured["after"]["eval_loss"] == pytest.approx(result["eval_loss"]["after"], abs=1e-6)
    merged = merge({"models": [str(run_dir)], "to": str(tmp_path / "merged")})
    assert merged["differences"][0]["largest_difference"] < 1e-5
    whole = load_model(ModelSettings(name_or_path=merged["model"]), seed=0, device="cpu")
    assert torch.allclose(logits_of(whole), final[0], atol=1e-5)


def test_peft_alone_saves_it_for_a_base_that_it_cannot_make_again(models, tmp_path):
    torch.manual_seed(1)
    adapter = LoraConfig(r=4, init_lora_weights="pissa_niter_4", target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(models["llama"]), adapter)
    before = logits_of(model)
    model.save_pretrained(tmp_path)
    torch.manual_seed(2)  # the fast decomposition draws its own vectors
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(models["llama"]), tmp_path)
    assert (logits_of(again) - before).abs().max() > 1e-3


# --- trap 4 and its like: resumes -------------------------------------------------------------------------------------

RESUMED = {
    "p_tuning": P_TUNING,
    "p_tuning_lstm": {**P_TUNING, "encoder_reparameterization_type": "LSTM", "encoder_num_layers": 2},
    "prefix_projection": {**PREFIX, "prefix_projection": True},
    "adalora": ADALORA,
    "pissa": PISSA,
    "pissa_niter": NITER,
    "loraplus": LORAPLUS,
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(name, sft_file, make_spec, new_run, monkeypatch):
    steps, interrupted = (9, 4) if name == "adalora" else (5, 2)
    spec = make_spec(sft_file, peft=RESUMED[name], train={"max_steps": steps})
    whole, broken = new_run(spec, "whole"), new_run(spec, "broken")
    expected = train(whole)
    with monkeypatch.context() as patch:
        interrupt_at(interrupted, patch)
        with pytest.raises(InterruptedRun):
            train(broken)
    checkpoint, _ = newest_valid(broken / rundir.CHECKPOINTS, files_to_resume(spec))
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{interrupted + 1}"
    assert train(broken, resume=checkpoint)["loss_last"] == expected["loss_last"]
    assert same_weights(whole, broken)
    assert declared(whole).get("rank_pattern") == declared(broken).get("rank_pattern")
    if name == "adalora":
        # Of nine steps, 2 to 6 prune: before the fifth, after which it was interrupted, and behind it.
        kept = torch.load(checkpoint / "process_state_0.pt", weights_only=True)["tuner"]["rank_pattern"]
        ranks = [sum(map(sum, pattern.values())) for pattern in (kept, declared(whole)["rank_pattern"])]
        assert 6 * MATRICES > ranks[0] > ranks[1] == 3 * MATRICES


@pytest.mark.parametrize("held_out", [0.0, 0.25], ids=["", "evaluated"])
def test_p_tuning_is_saved_without_dropout(held_out, sft_file, make_spec, new_run, look):
    # PEFT computes the vectors that it saves with the encoder as the training left it, before an evaluation changes it.
    final: list[torch.Tensor] = []
    modes: list[bool] = []

    def at_end(model: Any) -> None:
        mode = model.training
        final.append(logits_of(model))
        modes.append(mode)
        model.train(mode)

    look(end=at_end)
    peft = {**RESUMED["p_tuning_lstm"], "encoder_dropout": 0.5}
    run_dir = new_run(make_spec(sft_file, peft=peft, train={"max_steps": 2}, eval_share=held_out), "run")
    train(run_dir)
    assert modes == [True]
    again = load_trained(ModelSettings(name_or_path=str(run_dir)), seed=99, device="cpu")
    assert torch.equal(logits_of(again), final[0])


def test_a_prefix_that_an_mlp_makes_is_saved_as_what_it_made_and_answers_the_same(sft_file, make_spec, new_run, look):
    final: list[torch.Tensor] = []
    look(end=lambda model: final.append(logits_of(model)))
    run_dir = new_run(make_spec(sft_file, peft={**PREFIX, "prefix_projection": True}), "run")
    result = train(run_dir)
    assert result["loss_last"] < result["loss_first"]
    # Four positions of 4 x 32 for the vectors, an MLP 16 -> 16 -> 2 layers x 2 x 16 behind them.
    assert result["parameters"]["trainable"] == 4 * 16 + (16 * 16 + 16) + (16 * 64 + 64)
    # What is left is one key and one value a layer and position, without the MLP.
    assert [tuple(tensor.shape) for tensor in weights(run_dir).values()] == [(4, 2 * 2 * 16)]
    again = load_trained(ModelSettings(name_or_path=str(run_dir)), seed=99, device="cpu")
    assert torch.allclose(logits_of(again), final[0], atol=1e-6)


def test_loraplus_gives_b_its_own_rate(sft_file, make_spec, new_run, look):
    seen: list[dict[str, float]] = []

    def groups(trainer: Any) -> None:
        trainer.create_optimizer()
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        seen.append({names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]})

    look(start=groups)
    train(new_run(make_spec(sft_file, peft=LORAPLUS, train={"max_steps": 1}), "run"))
    assert len(seen[0]) == 2 * MATRICES
    # train.learning_rate is 0.01; the ratio of B over A is 16.
    for name, rate in seen[0].items():
        assert rate == pytest.approx(0.16 if "lora_B" in name else 0.01)


# --- AdaLoRA: TRL calls no pruning and drops the penalty --------------------------------------------------------------


def test_adalora_prunes_to_its_target_and_saves_what_is_left(sft_file, make_spec, new_run, look):
    final: list[torch.Tensor] = []
    look(end=lambda model: final.append(logits_of(model)))
    run_dir = new_run(make_spec(sft_file, peft=ADALORA, train={"max_steps": 9}), "run")
    train(run_dir)
    pattern = declared(run_dir)["rank_pattern"]
    assert len(pattern) == MATRICES
    assert sum(map(sum, pattern.values())) == 3 * MATRICES  # the mean of target_r; init_r was 6
    saved = {name: len(tensor) for name, tensor in weights(run_dir).items() if "lora_E" in name}
    assert sum(saved.values()) == 3 * MATRICES
    again = load_trained(ModelSettings(name_or_path=str(run_dir)), seed=99, device="cpu")
    assert torch.equal(logits_of(again), final[0])


def test_adaloras_schedule_is_laid_over_the_run_where_nobody_sets_it(sft_file, make_spec, new_run, look):
    seen: list[Any] = []
    look(start=lambda trainer: seen.append(trainer.model))
    own = {name: value for name, value in ADALORA.items() if name not in ("tinit", "tfinal")}
    train(new_run(make_spec(sft_file, peft=own, train={"max_steps": 10}), "run"))
    config = seen[0].peft_config["default"]
    # A tenth and a half of ten steps.
    assert (config.total_step, config.tinit, config.tfinal) == (10, 1, 5)


def test_the_orthogonality_penalty_is_in_the_loss(sft_file, make_spec, new_run):
    first = {}
    for weight in (0.0, 1.0):
        spec = make_spec(sft_file, peft={**ADALORA, "orth_reg_weight": weight}, train={"max_steps": 6})
        first[weight] = train(new_run(spec, f"weight-{weight}"))["loss_first"]
    # P of rank 6 starts as N(0, 0.02²) in 32 or more dimensions: PPᵀ ≈ 0.02²·32·I = 0.013·I, and ‖PPᵀ − I‖ is a
    # little under √6 = 2.449 (1 − 0.013 of it, and less in the feed-forward's 48).
    assert 0.97 * math.sqrt(6) < first[1.0] - first[0.0] < math.sqrt(6)


# --- a base in few bits -----------------------------------------------------------------------------------------------


def test_on_nf4_the_adapter_trains_in_float32_and_nothing_else_moves(sft_file, make_spec, new_run, look):
    before: dict[str, torch.Tensor] = {}
    seen: list[Any] = []

    def at_start(trainer: Any) -> None:
        seen.append(trainer.model)
        trains = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert len(trains) == 2 * MATRICES
        assert {p.dtype for p in trains.values()} == {torch.float32}
        before.update({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

    look(start=at_start)
    spec = replace(make_spec(sft_file, peft={**LORA, "lora_dropout": 0.0}), quantisation=NF4)
    result = train(new_run(spec, "run"))
    assert result["loss_last"] < result["loss_first"]
    after = dict(seen[0].named_parameters())
    in_4_bits = [name for name, tensor in before.items() if tensor.dtype == torch.uint8]
    assert len(in_4_bits) == MATRICES  # not the head, which is the embedding
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name].detach())}
    assert moved == {name for name, tensor in after.items() if tensor.requires_grad}


def trl_trainer(model: Any, adapter: Any, folder: Path, tokenizer: Any, **settings: Any) -> Any:
    """TRL's SFT trainer as it comes, around a model and a PEFT config."""
    from trl import SFTConfig, SFTTrainer

    values = {"report_to": "none", "use_cpu": True, "bf16": False, "max_steps": 1, "save_strategy": "no", **settings}
    config = SFTConfig(output_dir=str(folder), gradient_checkpointing=values.pop("checkpointing", False), **values)
    rows = Dataset.from_list([conversation(index) for index in range(4)])
    return SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)


def test_trl_alone_trains_it_in_bfloat16(models, tokenizer, tmp_path):
    quantised = bitsandbytes_config(NF4, AutoModelForCausalLM)
    base = AutoModelForCausalLM.from_pretrained(models["llama"], quantization_config=quantised, device_map="cpu")
    trainer = trl_trainer(base, LoraConfig(r=4, target_modules="all-linear"), tmp_path, tokenizer)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.bfloat16}


# --- what no run can do: refused by the front half (tests/build/test_adapter_checks.py) ------


def test_trl_trains_a_plain_lora_in_that_trainer(models, tokenizer, tmp_path):
    # So that the two failures below are the adapters' and not the test's.
    base = AutoModelForCausalLM.from_pretrained(models["llama"])
    trl_trainer(base, LoraConfig(r=4), tmp_path, tokenizer, checkpointing=True).train()


NO_LOGITS = {
    "ADAPTION_PROMPT": AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"),
    "CPT": CPTConfig(
        cpt_token_ids=[5, 6], cpt_tokens_type_mask=[1, 2], num_virtual_tokens=2, task_type="CAUSAL_LM"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_LOGITS)
@pytest.mark.xfail(raises=AttributeError, strict=True, reason="the fused loss makes no logits")
def test_trl_trains_what_needs_logits(kind, models, tokenizer, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(models["llama"])
    trl_trainer(base, NO_LOGITS[kind], tmp_path, tokenizer).train()


@pytest.mark.xfail(raises=RuntimeError, strict=True, reason="the cache with the prefix is gone when layers run again")
def test_trl_trains_a_prefix_under_gradient_checkpointing(models, tokenizer, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(models["llama"])
    adapter = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    trl_trainer(base, adapter, tmp_path, tokenizer, checkpointing=True).train()
