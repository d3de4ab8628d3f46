"""Training fits the logits that a model gives, also where more than a matrix stands between it and its last state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from ftcli.worker.models.packing_trial import small_model
from ftcli.worker.trainers.fused_head import name_experts, train_by_own_logits
from tests.matrix.architectures import configuration

IDS = torch.tensor([[5, 9, 17, 30, 4, 8], [7, 11, 6, 3, 40, 41]])
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
HEADS = {
    "llama": False,
    "gemma2": False,  # capped, which TRL knows
    "cohere": False,  # scaled, which TRL knows
    "granite": False,
    "bert": True,  # a layer and a norm before the head
    "electra": True,  # the head is narrower than the last state
    "llama4_text": True,  # its decoder is not under the name that its class says
    "recurrent_gemma": True,  # capped under a name of its own
    "xlm-roberta": True,
}


def with_head(model_type: str, temperature: float = 1.0) -> Any:
    """A small model with TRL's fused head, whose logits are large enough for a cap to show."""
    model = small_model(configuration(model_type))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    add_fused_lm_head(model, temperature=temperature, outputs=FIELDS)
    return model


@pytest.mark.parametrize("model_type", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_is_that_of_the_models_own_logits(model_type: str, temperature: float):
    model = with_head(model_type, temperature)
    assert train_by_own_logits(model) == HEADS[model_type]
    assert not train_by_own_logits(model)  # the second time there is nothing to do
    labels = IDS.masked_fill(torch.tensor([[1, 0, 0, 1, 0, 0]]) == 1, -100)
    found = model(input_ids=IDS, labels=labels, fused_lm_head=True)
    kept = labels[:, 1:] != -100
    logits = model(input_ids=IDS, use_cache=False).logits[:, :-1].float() / temperature
    log_probs = logits.log_softmax(-1)
    own = log_probs.gather(-1, IDS[:, 1:, None])[..., 0] * kept
    close = {"atol": 1e-3, "rtol": 1e-4}
    assert torch.allclose(found.log_probs, own, **close)
    assert torch.allclose(found.loss, -own.sum() / kept.sum(), **close)
    assert torch.allclose(found.entropy, -(log_probs.exp() * log_probs).sum(-1) * kept, **close)
    assert torch.allclose(found.log_sum_sq_probs, (log_probs.exp() ** 2).sum(-1).log() * kept, **close)
    assert torch.allclose(found.mean_logits, logits.mean(-1) * kept, **close)
    assert torch.equal(found.is_top1, (logits.argmax(-1) == IDS[:, 1:]) & kept)
    trls = with_head("llama")(input_ids=IDS, labels=labels, fused_lm_head=True)
    assert {name: found[name].dtype for name in FIELDS} == {name: trls[name].dtype for name in FIELDS}


def test_an_adapter_trains_through_the_replaced_head_and_nothing_else_changes():
    model = with_head("bert")
    own = model(input_ids=IDS, use_cache=False).logits
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], task_type="CAUSAL_LM"))
    assert train_by_own_logits(adapted)
    assert adapted.training  # as it was
    adapted.eval()
    assert torch.equal(adapted(input_ids=IDS, use_cache=False).logits, own)
    adapted(input_ids=IDS, labels=IDS, fused_lm_head=True).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() for p in adapted.parameters() if p.requires_grad)


def test_the_loss_of_a_router_knows_its_experts_by_any_name():
    model = small_model(configuration("granitemoe"))
    model.config.output_router_logits = True
    add_fused_lm_head(model, outputs=FIELDS)
    saved = model.config.to_dict()
    name_experts(model.config)
    assert model.config.num_experts == model.config.num_local_experts
    assert model.config.to_dict() == saved  # nothing that would be saved
    own = model(input_ids=IDS, labels=IDS, use_cache=False, output_router_logits=True)
    found = model(input_ids=IDS, labels=IDS, fused_lm_head=True)
    assert torch.allclose(found.aux_loss, own.aux_loss)


def test_the_loss_of_a_router_is_taken_where_the_model_gives_none():
    """Llama 4 gives its routers' logits alone; with one of 8 experts a token, even routing costs 1 in each layer."""
    model = with_head("llama4_text").requires_grad_(False)
    model.config.output_router_logits = True
    name_experts(model.config)
    assert train_by_own_logits(model)
    found = model(input_ids=IDS, labels=IDS, fused_lm_head=True)
    routers = torch.cat(model(input_ids=IDS, use_cache=False, output_router_logits=True).router_logits)
    chosen = torch.nn.functional.one_hot(routers.softmax(-1).topk(1).indices, 8).float().mean(0)
    assert float(found.aux_loss) == pytest.approx(float((chosen * routers.softmax(-1).mean(0)).sum() * 8), rel=1e-4)
    wanted = -found.log_probs.sum() / 10 + model.config.router_aux_loss_coef * found.aux_loss
    assert float(found.loss) == pytest.approx(float(wanted), rel=1e-5)
