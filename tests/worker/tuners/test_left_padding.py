"""An answer of a learned prompt does not depend on the rows that it is generated with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftcli.worker.tuners.left_padding import after_padding

PAD = 0
KINDS = {"prompt": PromptTuningConfig, "p_tuning": PromptEncoderConfig, "prefix": PrefixTuningConfig}
ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def base(architecture: str) -> Any:
    """A small model with rotary positions, learned ones, or biases in their place."""
    torch.manual_seed(0)
    if architecture == "bloom":
        return BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2))
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    )


def with_vectors(architecture: str, kind: str) -> Any:
    """The model with five vectors that are far from those of any token."""
    model = get_peft_model(base(architecture), KINDS[kind](task_type="CAUSAL_LM", num_virtual_tokens=5))
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.mul_(3)
    return model.eval()


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def test_padding_and_vectors_change_places():
    # two vectors 91 and 92; no padding in the first row, two places of it in the second
    values = torch.tensor([[91, 92, 1, 2, 3], [91, 92, 0, 0, 4]])
    assert after_padding(values, torch.tensor([0, 2]), 2).tolist() == [[91, 92, 1, 2, 3], [0, 0, 91, 92, 4]]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_row_has_the_logits_of_the_row_alone(kind: str, architecture: str):
    model = with_vectors(architecture, kind)
    with torch.no_grad():
        together = model(**padded(ROWS)).logits
        for row, found in zip(ROWS, together, strict=True):
            alone = model(**padded([row])).logits[0]
            torch.testing.assert_close(found[-len(row) :], alone[-len(row) :], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_answer_is_that_of_the_row_alone(kind: str, architecture: str):
    model = with_vectors(architecture, kind)
    how = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": PAD, "eos_token_id": None}
    together = model.generate(**padded(ROWS), **how)
    for row, found in zip(ROWS, together, strict=True):
        alone = model.generate(**padded([row]), **how)[0]
        assert found[-12:].tolist() == alone[-12:].tolist()


def test_vectors_get_the_gradient_of_the_rows_alone():
    model = with_vectors("llama", "prompt")
    batch = padded(ROWS)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    [vectors] = model.prompt_encoder.parameters()
    model(**batch, labels=labels).loss.backward()
    together = vectors.grad.clone()
    vectors.grad = None
    tokens = sum(map(len, ROWS))
    for row in ROWS:
        # the mean over a row's tokens, all of which are predicted, the first from the last vector
        alone = padded([row])
        (model(**alone, labels=alone["input_ids"]).loss * len(row) / tokens).backward()
    torch.testing.assert_close(together, vectors.grad, atol=1e-6, rtol=1e-4)
