"""Rows without padding are the rows alone: logits and every gradient, in each architecture that is said to do so."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ftcli.models.packing_support import UNPADS_EXACTLY
from ftcli.worker.trainers import unpadded
from tests.worker.tokenise.test_packing_exact import TOLERANCE, documents, gradients, largest_difference, small


def flat(rows):
    """Rows as one, with what a network is called with."""
    lengths = [len(row) for row in rows]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids = torch.tensor([token for row in rows for token in row])[None]
    return ids, unpadded.called_with(unpadded.Rows.of(lengths, torch.device("cpu")), positions)


# Under gradient checkpointing a network is in training mode, where some have dropout.
WAYS = [(name, False) for name in sorted(UNPADS_EXACTLY)] + [(name, True) for name in ("llama", "gemma3_text", "qwen3")]


@pytest.mark.parametrize(("model_type", "checkpointing"), WAYS)
def test_rows_without_padding_are_rows_alone(model_type, checkpointing):
    try:
        model = small(model_type, "sdpa")
    except ValueError as error:
        pytest.skip(f"no sdpa: {error}")
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Long ones are in batches of their own length.
    drawn = torch.Generator().manual_seed(4)
    long = [torch.randint(3, 160, (length,), generator=drawn).tolist() for length in (40, 94, 36, 90)]
    rows = [*documents(), *long]
    assert len(unpadded.Rows.of([len(row) for row in rows], torch.device("cpu")).batches) == 3
    apart = torch.cat([model(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in rows])
    weights = torch.randn(apart.shape, generator=torch.Generator().manual_seed(2)) / len(rows)
    expected = gradients(model, (apart * weights).sum())
    ids, how = flat(rows)
    together = model(input_ids=ids, use_cache=False, **how).logits[0]
    assert (together - apart).abs().max() < TOLERANCE
    found = gradients(model, (together * weights).sum())
    assert largest_difference(found, expected) < TOLERANCE * 10


def test_a_network_called_otherwise_has_the_attention_of_torch(monkeypatch: pytest.MonkeyPatch):
    model = small("llama", "sdpa")
    ids = torch.randint(3, 160, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[0] * n + [1] * (9 - n) for n in (0, 2, 5)])
    found = model(input_ids=ids, attention_mask=mask).logits
    said = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, found)
    assert torch.equal(model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False), said)


def test_an_adapter_passes_the_rows_on():
    model = get_peft_model(small("llama", "sdpa"), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    rows = documents()
    ids, how = flat(rows)
    apart = torch.cat([model(input_ids=torch.tensor([row]), use_cache=False).logits[0] for row in rows])
    assert (model(input_ids=ids, use_cache=False, **how).logits[0] - apart).abs().max() < TOLERANCE
