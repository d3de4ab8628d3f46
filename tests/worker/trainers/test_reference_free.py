"""ORPO, CPO, SimPO and IPO: worked by hand from their papers, and held against the trainers of TRL on one batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl.experimental.cpo import CPOTrainer as TheirCpo
from trl.experimental.orpo import ORPOTrainer as TheirOrpo

from ftcli.methods import get_method
from ftcli.worker.trainers.preference.reference_free import Side, contrastive_loss, odds_ratio_loss, simpo_loss
from ftcli.worker.training.library_configs import load_class
from ftcli.worker.training.trainer import make_trainer

PAIRS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 2], "rejected_ids": [10, 2]},
    {"prompt_ids": [11, 12], "chosen_ids": [13, 2], "rejected_ids": [14, 15, 16, 17, 2]},
    {"prompt_ids": [18], "chosen_ids": [19, 20, 21, 22, 2], "rejected_ids": [23, 24, 2]},
]
SETTINGS = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}


def side(mean: float, tokens: int) -> Side:
    return Side(total=torch.tensor([mean * tokens]), mean=torch.tensor([mean]))


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_orpo_is_the_papers_odds_ratio():
    # P = 1/2 against 1/4: odds 1 against 1/3, a ratio of 3; equation 7 is -log sigmoid(log 3) = -log(3/4).
    found = odds_ratio_loss(side(math.log(0.5), 3), side(math.log(0.25), 5))
    assert found.item() == pytest.approx(-math.log(3 / 4), abs=1e-6)


def test_cpo_tells_the_sums_apart():
    # log pi = -3 and -5: -log sigmoid(0.1 * 2).
    found = contrastive_loss(side(-1.0, 3), side(-1.0, 5), beta=0.1, label_smoothing=0.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.2)), abs=1e-6)
    smoothed = contrastive_loss(side(-1.0, 3), side(-1.0, 5), beta=0.1, label_smoothing=0.1)
    expected = 0.9 * math.log(1 + math.exp(-0.2)) + 0.1 * math.log(1 + math.exp(0.2))
    assert smoothed.item() == pytest.approx(expected, abs=1e-6)


def test_simpo_tells_the_means_apart_by_a_margin():
    # Means -0.5 and -1.5, beta 2, gamma 1: -log sigmoid(2 * 1 - 1), however long the answers are.
    for lengths in ((3, 5), (7, 1)):
        found = simpo_loss(side(-0.5, lengths[0]), side(-1.5, lengths[1]), beta=2.0, gamma=1.0, label_smoothing=0.0)
        assert found.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


# --- against TRL ------------------------------------------------------------------------------------------------------


def trainer_of(name: str, models: Any, tokenizer: Any, folder: Any, reference: Any = None, **settings: Any) -> Any:
    method = get_method(name)
    values = {**SETTINGS, **method.fixed, **settings}
    config = load_class(method.config)(str(folder), per_device_train_batch_size=len(PAIRS), **values)
    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    rows = Dataset.from_list(PAIRS)
    return make_trainer(method, config, model, tokenizer, train=rows, held_out=None, reference=reference)


def batch_of(trainer: Any) -> dict[str, torch.Tensor]:
    return dict(trainer.data_collator(PAIRS))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_trl(kind: type[Any], trainer: Any, **settings: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss and measures of TRL's experimental trainer on the model and the batch of ours."""
    theirs = object.__new__(kind)
    own = {
        "is_encoder_decoder": False, "aux_loss_enabled": False, "accelerator": trainer.accelerator,
        "pad_token_id": trainer._tokenizer.pad_token_id, "padding_value": trainer._tokenizer.pad_token_id,
        "label_smoothing": 0.0, "alpha": 0.0, **settings,
    }  # fmt: skip
    for name, value in own.items():
        setattr(theirs, name, value)
    batch = batch_of(trainer)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    sides = {}
    for index, name in enumerate(("chosen", "rejected")):
        for key, values in (("input_ids", batch["input_ids"]), ("attention_mask", batch["attention_mask"])):
            sides[f"{name}_{key}"] = values.chunk(2)[index]
        sides[f"{name}_labels"] = labels.chunk(2)[index]
    return theirs.get_batch_loss_metrics(trainer.model, sides)


CASES = {
    "orpo": (TheirOrpo, {"beta": 0.3, "nll_on_prompt": True}, {"beta": 0.3}),
    "cpo": (
        TheirCpo,
        {"beta": 0.3, "nll_weight": 0.7, "label_smoothing": 0.1},
        {"beta": 0.3, "cpo_alpha": 0.7, "label_smoothing": 0.1, "loss_type": "sigmoid"},
    ),
    "simpo": (
        TheirCpo,
        {"beta": 2.5, "gamma": 1.2},
        {"beta": 2.5, "simpo_gamma": 1.2, "cpo_alpha": 0.0, "loss_type": "simpo"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_log_probabilities_and_gradients_are_those_of_trl(name, models, tokenizer, tmp_path):
    kind, ours, theirs = CASES[name]
    trainer = trainer_of(name, models, tokenizer, tmp_path, **ours)
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    loss.backward()
    own = gradients(trainer.model)
    trainer.model.zero_grad()
    expected, measures = by_trl(kind, trainer, **theirs)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    log_probs = ("logps/chosen", "logps/rejected") if name == "cpo" else ()  # TRL tells means there of the others
    rewards = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
    for key in (*log_probs, *rewards):
        assert trainer._noted["eval"].values()[key] == pytest.approx(measures[key], abs=1e-5), key
    reference = gradients(trainer.model)
    assert own.keys() == reference.keys()
    for key, gradient in reference.items():
        torch.testing.assert_close(own[key], gradient, atol=1e-5, rtol=0)


def test_orpos_likelihood_is_of_the_answer_unless_trls_form_is_asked_for(models, tokenizer, tmp_path):
    answer, whole = (
        trainer_of("orpo", models, tokenizer, tmp_path, nll_on_prompt=on_prompt) for on_prompt in (False, True)
    )
    batch = batch_of(answer)
    logits = answer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)[:3, :-1]
    log_probs = logits.gather(2, batch["input_ids"][:3, 1:, None]).squeeze(2)
    for trainer, mask in ((answer, batch["completion_mask"]), (whole, batch["attention_mask"])):
        trainer.compute_loss(trainer.model, batch)
        kept = mask[:3, 1:].bool()
        assert trainer._noted["eval"].values()["nll"] == pytest.approx(-log_probs[kept].mean().item(), abs=1e-5)


def test_ipo_drives_the_mean_log_ratio_to_its_margin(models, tokenizer, tmp_path):
    """(h - 1/(2 tau))^2 with h the difference of mean log-ratios: equation 17, on means as its authors have it."""
    reference = AutoModelForCausalLM.from_pretrained(models["llama"])
    with torch.no_grad():
        reference.get_input_embeddings().weight.mul_(1.1)
    trainer = trainer_of("ipo", models, tokenizer, tmp_path, reference=reference, beta=0.2)
    batch = batch_of(trainer)
    means = []
    for model in (trainer.model, reference):
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)[:, :-1]
        mask = batch["completion_mask"][:, 1:]
        log_probs = logits.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2) * mask
        means.append((log_probs.sum(1) / mask.sum(1)).detach())
    chosen, rejected = (means[0] - means[1]).chunk(2)
    expected = ((chosen - rejected - 1 / (2 * 0.2)) ** 2).mean()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("name", ["orpo", "cpo", "simpo"])
def test_one_model_is_in_memory_and_none_is_digested(name, models, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.trainer.dpo_trainer.hash_module", lambda module: pytest.fail("digested"))
    trainer = trainer_of(name, models, tokenizer, tmp_path)
    assert trainer.ref_model is None
    held = {id(m): m for m in vars(trainer).values() if isinstance(m, torch.nn.Module)}
    sizes = {p.data_ptr(): p.numel() for m in held.values() for p in m.parameters()}
    assert sum(sizes.values()) == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(models["llama"]).parameters()
    )
