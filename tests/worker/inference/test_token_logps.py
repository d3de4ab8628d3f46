"""Held-out answers are scored from a few hundred tokens' logits at a time, and exactly as from all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM, set_seed

from ftcli.worker.inference import token_logps as module
from ftcli.worker.inference.metrics import logps
from ftcli.worker.inference.token_logps import token_logps
from ftcli.worker.tokenise.encoder import Encoder

ROWS, LENGTH, FIRST, TOGETHER = 3, 20, 6, 9


def gpt2(models: Any) -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2))


def mixture(models: Any) -> Any:
    """With a router, whose loss is computed beside the logits when it is trained."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=1, num_local_experts=2, **sizes)
    config.output_router_logits = True
    return MixtralForCausalLM(config)


def stored(name: str, models: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(models[name])


def adapted(config: Any, models: Any) -> Any:
    model = get_peft_model(stored("llama", models), config)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(each)  # so that the adapter changes something
    return model


MODELS = {
    "llama": partial(stored, "llama"),
    "gemma2, which caps its logits": partial(stored, "gemma2"),
    "gpt2": gpt2,
    "a mixture of experts": mixture,
    "lora": partial(adapted, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])),
    "prompt tuning": partial(adapted, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
}


def whole(model: Any, inputs: Any, mask: Any) -> Any:
    """Log-probabilities from the logits of all tokens at once."""
    logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[:, -LENGTH:]
    return logits[:, :-1].float().log_softmax(-1).gather(-1, inputs[:, 1:, None])[..., 0][:, FIRST - 1 :]


def head_of(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "peft_config") else model).get_output_embeddings()


@pytest.mark.parametrize("name", MODELS)
def test_no_more_logits_than_a_few_tokens_have_are_in_memory_and_each_value_is_the_models_own(
    name: str, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_TOKENS", TOGETHER)
    set_seed(0)
    model = MODELS[name](models).eval()
    inputs = torch.randint(3, 64, (ROWS, LENGTH))
    mask = torch.ones_like(inputs)
    mask[1, -5:] = 0
    with torch.no_grad():
        expected = whole(model, inputs, mask)
        sizes: list[int] = []
        head_of(model).register_forward_hook(lambda _m, _i, logits: sizes.append(logits.shape[0] * logits.shape[1]))
        found = token_logps(model, inputs, mask, FIRST)
        again = whole(model, inputs, mask)
    assert found.shape == (ROWS, LENGTH - FIRST)
    assert torch.allclose(found, expected, atol=1e-5)
    # 14 tokens a row, three of each row at a time, after one pass through the layers that shows one of each row.
    assert sizes[:-1] == [ROWS, TOGETHER, TOGETHER, TOGETHER, TOGETHER, 2 * ROWS]
    assert torch.equal(again, expected)  # nothing of it is left in the model


def test_a_model_of_its_own_build_is_scored_from_all_logits(models: Any) -> None:
    class Other(nn.Module):
        """Layers and head in one, as code from the hub may have them."""

        def __init__(self) -> None:
            super().__init__()
            self.config = stored("llama", models).config
            self.table = nn.Embedding(64, 64)

        def forward(self, input_ids: Any, **_: Any) -> Any:
            found = type("Output", (), {})()
            found.logits = self.table(input_ids)
            return found

    model = Other()
    inputs = torch.randint(3, 64, (ROWS, LENGTH))
    with torch.no_grad():
        expected = model.table(inputs)[:, FIRST - 1 : -1].log_softmax(-1).gather(-1, inputs[:, FIRST:, None])[..., 0]
        assert torch.allclose(token_logps(model, inputs, torch.ones_like(inputs), FIRST), expected, atol=1e-5)


def test_answers_are_scored_alike_in_any_batch(models: Any, tokenizer: Any) -> None:
    model, encoder = stored("llama", models).eval(), Encoder(tokenizer, [], "the tokenizer")
    prompts, answers = [[5, 6, 7], [8], [9, 10, 11, 12], [3, 4]], [[13, 14], [15, 16, 17], [18], [19, 20, 21, 22]]
    with torch.no_grad():
        together = logps(model, encoder, prompts, answers, None)
        apart = logps(model, encoder, prompts, answers, None, batch_size=1)
        cut = logps(model, encoder, prompts, answers, 4)
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(together[0] / together[1], torch.tensor([2.0, 3.0, 1.0, 4.0]))
    assert cut[0][2] == 0  # nothing of this answer is within four tokens
