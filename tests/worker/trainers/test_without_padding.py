"""What a fused head says of padded rows is the same whether their padding is computed or left out."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from ftcli.models.packing_support import UNPADS_EXACTLY
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers.without_padding import leave_out
from tests.worker.tokenise.test_packing_exact import small

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
LENGTHS = (7, 3, 12, 1)
ADAPTERS = {
    "lora": lambda: LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    "ia3": lambda: IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}


def with_head(model_type: str = "llama") -> Any:
    """A small model with TRL's fused head."""
    model = small(model_type, "sdpa")
    add_fused_lm_head(model, outputs=FIELDS)
    return model


def batch(side: str = "right", lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """Rows whose last half trains."""
    made, width = torch.Generator().manual_seed(1), max(lengths) + 1
    ids = torch.randint(4, 90, (len(lengths), width), generator=made)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, length in enumerate(lengths):
        begin = 0 if side == "right" else width - length
        mask[row, begin : begin + length] = 1
        trained = slice(begin + (length + 1) // 2, begin + length)
        labels[row, trained] = ids[row, trained]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def block(lengths: tuple[tuple[int, ...], ...] = ((7, 1, 5), (12,), (3, 2))) -> dict[str, Tensor]:
    """Packed documents whose last halves train, a tuple of lengths for each block."""
    made, width = torch.Generator().manual_seed(1), max(map(sum, lengths)) + 1
    ids = torch.randint(4, 90, (len(lengths), width), generator=made)
    positions, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, documents in enumerate(lengths):
        begin = 0
        for length in documents:
            positions[row, begin : begin + length] = torch.arange(length)
            trained = slice(begin + (length + 1) // 2, begin + length)
            labels[row, trained] = ids[row, trained]
            begin += length
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


def left_out(model: Any, **training: Any) -> bool:
    """What `leave_out` says under a trainer's settings."""
    return leave_out(model, SimpleNamespace(**{"torch_compile": False, **training}))


def calls(model: Any) -> list[tuple[int, ...]]:
    """The shapes of the ids that a model's embeddings are asked for, from now on."""
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape)))
    return seen


def assert_equal(one: Any, other: Any) -> None:
    assert torch.equal(one.label_mask, other.label_mask)
    for name in FIELDS:
        own, plain = getattr(one, name), getattr(other, name)
        assert own.shape == plain.shape
        assert own.dtype == plain.dtype
        assert torch.allclose(own.float(), plain.float(), atol=2e-5), name
    assert torch.allclose(one.loss, other.loss, atol=1e-5)


GIVEN = {"right": batch, "left": lambda: batch("left"), "packed": block}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("model_type", sorted(UNPADS_EXACTLY))
def test_numbers_and_gradients_are_those_of_padded_rows(model_type: str, given: str):
    try:
        padded = with_head(model_type)
    except ValueError as error:
        pytest.skip(f"no sdpa: {error}")
    without = deepcopy(padded)
    add_fused_lm_head(without, outputs=FIELDS)  # a copy is patched for itself
    assert left_out(without)
    seen, rows = calls(without), GIVEN[given]()
    found = [model(**rows, use_cache=False, fused_lm_head=True, num_items_in_batch=9) for model in (without, padded)]
    assert seen == [(1, sum(LENGTHS) if given != "packed" else 7 + 5 + 12 + 3 + 2)]
    assert_equal(*found)
    for each in found:
        each.loss.backward()
    for (name, own), other in zip(without.named_parameters(), padded.parameters(), strict=True):
        if other.grad is not None:
            assert torch.allclose(own.grad, other.grad, atol=2e-5), name


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_learns_the_same(name: str):
    gradients = []
    for without in (True, False):
        torch.manual_seed(2)
        model = get_peft_model(with_head(), ADAPTERS[name]())
        assert not without or left_out(model)
        model(**batch(), use_cache=False, fused_lm_head=True).loss.backward()
        gradients.append({key: each.grad for key, each in model.named_parameters() if each.requires_grad})
    for key, own in gradients[0].items():
        assert torch.allclose(own, gradients[1][key], atol=2e-5), key


def test_calls_that_have_no_padding_or_need_it_are_computed_as_before():
    model = with_head()
    plain = deepcopy(model)
    add_fused_lm_head(plain, outputs=FIELDS)
    assert left_out(model)
    seen, full = calls(model), batch(lengths=(5, 5))
    full = {name: value[:, :5] for name, value in full.items()}
    gap = batch()
    gap["attention_mask"][0, 2] = 0
    first = batch("left")
    first["labels"][1, -3] = 7  # a row's first token, which padding is asked to predict
    empty = batch()
    empty["attention_mask"][3] = 0
    whole = block(((5,), (5,)))
    whole = {name: value[:, :5] for name, value in whole.items()}
    no_documents, taught = block(), block()
    no_documents["position_ids"] += 1
    taught["labels"][0, 8] = 7  # a document's first token, which the one before it is asked to predict
    for given in (full, gap, first, empty, whole, no_documents, taught):
        found = [each(**given, use_cache=False, fused_lm_head=True) for each in (model, plain)]
        assert_equal(*found)
    given = batch()
    unfused = [each(**given, use_cache=False).logits for each in (model, plain)]
    assert torch.equal(*unfused)
    assert {rows for rows, _ in seen} == {2, 3, 4}


def test_what_reads_whole_rows_keeps_its_padding():
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert not left_out(get_peft_model(with_head(), prompt))
    invoked = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[5])
    assert not left_out(get_peft_model(with_head(), invoked))
    assert not left_out(with_head("stablelm"))
    eager = small("llama", "eager")
    add_fused_lm_head(eager)
    assert not left_out(eager)
    assert not left_out(with_head(), torch_compile=True)
    assert not left_out(with_head(), neftune_noise_alpha=5.0)
