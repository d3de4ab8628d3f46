"""DPO's losses, divergences and references, and how many models each preference method holds."""

from __future__ import annotations

import ast
import gc
import inspect
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer import dpo_trainer

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.methods.dpo import OF_DIVERGENCES
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.fields.field_table import FIELDS
from ftcli.settings.library_values import values_of
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer
from tests.worker.trainers.test_reference_free import batch_of, gradients, trainer_of

LOSSES = values_of(FIELDS["method.loss_type@DPOConfig"].choices)

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@pytest.fixture
def reference(models: Any) -> Any:
    """A model that the policy has moved away from."""
    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


@pytest.fixture
def loss_of(models: Any, tokenizer: Any, reference: Any, tmp_path: Any) -> Any:
    """Loss and gradients of one batch under settings of DPO."""

    def measure(**settings: Any) -> tuple[float, dict[str, torch.Tensor]]:
        trainer = trainer_of("dpo", models, tokenizer, tmp_path, reference=reference, **settings)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch_of(trainer))
        loss.backward()
        return loss.item(), gradients(trainer.model)

    return measure


def of_one(name: str) -> dict[str, Any]:
    """The settings of one loss."""
    return {"loss_type": [name], **({"label_smoothing": 0.1} if name == "exo_pair" else {})}


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_the_installed_trainer():
    tree = ast.parse(inspect.getsource(dpo_trainer))
    compared = {
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "loss_type"
        if isinstance(node.ops[0], ast.Eq) and isinstance(node.comparators[0], ast.Constant)
    }
    assert compared == set(LOSSES)
    taken = next(
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "f_divergence_loss_types"
    )
    assert taken == set(OF_DIVERGENCES)


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_trains(name, loss_of):
    loss, grads = loss_of(**of_one(name))
    assert math.isfinite(loss)
    assert any(gradient.abs().sum() > 0 for gradient in grads.values())


def test_several_losses_are_their_weighted_sum(loss_of):
    (one, ours), (other, theirs) = loss_of(loss_type=["sigmoid"]), loss_of(loss_type=["sft"])
    both, grads = loss_of(loss_type=["sigmoid", "sft"], loss_weights=[0.8, 0.3])
    assert both == pytest.approx(0.8 * one + 0.3 * other, abs=1e-5)
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, 0.8 * ours[name] + 0.3 * theirs[name], atol=1e-5, rtol=0)


def test_dpo_is_the_papers_and_label_smoothing_mixes_both_ways(models, tokenizer, reference, tmp_path):
    trainer = trainer_of("dpo", models, tokenizer, tmp_path, reference=reference, beta=0.5)
    batch = batch_of(trainer)
    ratios = _log_ratios(trainer.model, reference, batch)
    chosen, rejected = ratios.chunk(2)
    margin = 0.5 * (chosen - rejected)
    expected = -torch.nn.functional.logsigmoid(margin)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.mean().item(), abs=1e-5)
    # Conservative DPO: a share of the labels is taken to be the wrong way round.
    smoothed = trainer_of("dpo", models, tokenizer, tmp_path, reference=reference, beta=0.5, label_smoothing=0.2)
    mixed = 0.8 * expected - 0.2 * torch.nn.functional.logsigmoid(-margin)
    assert smoothed.compute_loss(smoothed.model, batch).item() == pytest.approx(mixed.mean().item(), abs=1e-5)


def test_each_divergence_weighs_the_ratios_its_own_way(models, tokenizer, reference, tmp_path):
    """Wang et al. 2023, arXiv:2309.16240, table 1: f' of the ratio π/π_ref, up to constants that cancel in a pair."""
    weighed = {
        "reverse_kl": lambda logratio: logratio,
        "forward_kl": lambda logratio: -torch.exp(-logratio),
        "js_divergence": torch.nn.functional.logsigmoid,
        "alpha_divergence": lambda logratio: -torch.exp(-0.5 * logratio) / 0.5,
    }
    assert tuple(weighed) == DIVERGENCES
    for name, weigh in weighed.items():
        settings = {"f_divergence_type": name, "f_alpha_divergence_coef": 0.5, "beta": 0.5}
        trainer = trainer_of("dpo", models, tokenizer, tmp_path, reference=reference, **settings)
        batch = batch_of(trainer)
        chosen, rejected = weigh(_log_ratios(trainer.model, reference, batch)).chunk(2)
        expected = -torch.nn.functional.logsigmoid(0.5 * (chosen - rejected)).mean()
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), abs=1e-5), name


def _log_ratios(policy: Any, reference: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log π(y|x) − log π_ref(y|x) of each row of the batch."""
    with torch.no_grad():
        ours, theirs = (_answer_log_probs(model, batch) for model in (policy, reference))
    return ours - theirs


def _answer_log_probs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)[:, :-1]
    log_probs = logits.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    return (log_probs * batch["completion_mask"][:, 1:]).sum(1)


# --- the reference, and models in memory ------------------------------------------------------------------------------


def run_of(folder: Any, *overrides: str) -> Any:
    """The trainer of a composed run, its spec, and the parameters that it brought into memory."""
    common = ("hardware=cpu", "hardware.num_threads=1", "data.max_rows=8", "data.max_eval_rows=4", "run.score_rows=0")
    spec = spec_of(Request(overrides=(*overrides, *common, f"run.dir={folder}")))
    folder.mkdir()
    gc.collect()
    before = {id(found): found for found in gc.get_objects() if isinstance(found, torch.nn.Parameter)}
    trainer = build_trainer(load(spec, folder))
    gc.collect()
    new = [found for found in gc.get_objects() if isinstance(found, torch.nn.Parameter) and id(found) not in before]
    return trainer, spec, sum({found.data_ptr(): found.numel() for found in new}.values())


@pytest.mark.parametrize(
    ("overrides", "models_held"),
    [
        (("method=simpo",), 1),
        (("method=orpo",), 1),
        (("method=cpo", "peft=lora"), 1),
        (("method=simpo", "peft=lora", "peft.init_lora_weights=pissa"), 1),
        (("method=dpo", "peft=lora"), 1),
        (("method=kto", "peft=lora"), 1),
        (("method=dpo",), 2),
        (("method=ipo",), 2),
        (("method=kto",), 2),
        (("method=dpo", "method.precompute_ref_log_probs=true"), 1),
        (("method=reward",), 1),
    ],
)
def test_as_many_models_are_in_memory_as_the_plan_says(overrides, models_held, tmp_path):
    trainer, spec, held = run_of(tmp_path / "run", *overrides)
    outlook = plan(ResolvedRun.of(spec))
    trained = outlook.trainable if "peft=lora" in overrides else 0
    assert held == models_held * outlook.parameters + trained
    memory = outlook.memory
    assert memory["reference"] == pytest.approx((models_held - 1) * 4 * outlook.parameters / 2**30)
    assert (getattr(trainer, "ref_model", None) is not None) == (models_held == 2)


def test_a_frozen_copy_the_adapter_off_and_answers_asked_beforehand_are_one_reference(tmp_path):
    """All three are the model as the run found it: the same log-probabilities to 1e-5, and a first loss of ln 2."""
    found = {}
    for name, words in {
        "copy": (),
        "adapter off": ("peft=lora",),
        "beforehand": ("method.precompute_ref_log_probs=true",),
        "beforehand, adapter off": ("method.precompute_ref_log_probs=true", "peft=lora"),
    }.items():
        trainer, _, _ = run_of(tmp_path / name, "method=dpo", *words)
        rows = [trainer.train_dataset[i] for i in range(4)]
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, batch)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-5), name
        with torch.no_grad():
            logps = (
                trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
                if "beforehand" not in name
                else None
            )
        if logps is None:
            logps = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        found[name] = torch.cat([torch.as_tensor(side) for side in logps])
    for name, logps in found.items():
        torch.testing.assert_close(logps, found["copy"], atol=1e-4, rtol=1e-5, msg=name)
