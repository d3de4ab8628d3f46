"""What a fused head says of padded rows is the same whether their padding is computed or left out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification
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


def alike(side: str = "right", lengths: tuple[int, ...] = (8, 11, 9, 6)) -> dict[str, Tensor]:
    """Rows of which two begin with the same five tokens, and two more with the same four."""
    rows = batch(side, lengths)
    of = [each.nonzero()[0, 0] for each in rows["attention_mask"]]
    for one, other, same in ((0, 2, 5), (1, 3, 4)):
        rows["input_ids"][other, of[other] : of[other] + same] = rows["input_ids"][one, of[one] : of[one] + same]
        rows["input_ids"][other, of[other] + same] = 95
    labels = torch.where(rows["labels"] == IGNORED, IGNORED, rows["input_ids"])
    return {**rows, "labels": labels}


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


def packed_alike() -> dict[str, Tensor]:
    """Documents in two blocks, three of which begin alike."""
    rows = block(((7, 5), (12,)))
    for row, at in ((0, 7), (1, 0)):
        rows["input_ids"][row, at : at + 4] = rows["input_ids"][0, :4]
    rows["labels"] = torch.where(rows["labels"] == IGNORED, IGNORED, rows["input_ids"])
    return rows


GIVEN = {
    "right": (batch, sum(LENGTHS)),
    "left": (lambda: batch("left"), sum(LENGTHS)),
    "packed": (block, 7 + 5 + 12 + 3 + 2),
    "alike": (alike, 8 + 11 + 9 + 6 - 5 - 4),
    "alike, without padding": (lambda: alike(lengths=(9, 9, 9, 9)), 9 * 4 - 5 - 4),
    "alike, packed": (packed_alike, 7 + 5 + 12 - 4 - 4),
    # Where padding stands before them, models have the two at different positions.
    "alike, left": (lambda: alike("left"), 8 + 11 + 9 + 6),
    "alike, left, of one length": (lambda: alike("left", (8, 8, 8, 8, 9)), 8 * 4 + 9 - 5 - 4),
}


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
    make, computed = GIVEN[given]
    seen, rows = calls(without), make()
    found = [model(**rows, use_cache=False, fused_lm_head=True, num_items_in_batch=9) for model in (without, padded)]
    assert seen == [(1, computed)]
    assert_equal(*found)
    for each in found:
        each.loss.backward()
    for (name, own), other in zip(without.named_parameters(), padded.parameters(), strict=True):
        if other.grad is not None:
            assert torch.allclose(own.grad, other.grad, atol=2e-5), name


@pytest.mark.parametrize("make", [batch, alike])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_learns_the_same(name: str, make: Callable[[], dict[str, Tensor]]):
    gradients = []
    for without in (True, False):
        torch.manual_seed(2)
        model = get_peft_model(with_head(), ADAPTERS[name]())
        assert not without or left_out(model)
        model(**make(), use_cache=False, fused_lm_head=True).loss.backward()
        gradients.append({key: each.grad for key, each in model.named_parameters() if each.requires_grad})
    for key, own in gradients[0].items():
        assert torch.allclose(own, gradients[1][key], atol=2e-5), key


def test_a_model_of_two_trainers_gives_each_the_same():
    model = with_head()
    plain = deepcopy(model)
    add_fused_lm_head(plain, outputs=FIELDS)
    for _ in range(2):
        assert left_out(model)
    assert_equal(*(each(**alike(), use_cache=False, fused_lm_head=True) for each in (model, plain)))
    add_fused_lm_head(model, outputs=FIELDS)
    assert left_out(model)
    assert_equal(*(each(**alike(), use_cache=False, fused_lm_head=True) for each in (model, plain)))


def test_calls_that_have_no_padding_or_need_it_are_computed_as_before():
    model = with_head()
    plain = deepcopy(model)
    add_fused_lm_head(plain, outputs=FIELDS)
    assert left_out(model)
    seen, full = calls(model), batch(lengths=(5, 5))
    full = {name: value[:, :5] for name, value in full.items()}  # rows that begin otherwise
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


@pytest.mark.parametrize("of_adapter", [True, False])
def test_what_is_alike_is_drawn_for_each_row_under_dropout(of_adapter: bool):
    base = with_head()
    base.config.attention_dropout = 0.0 if of_adapter else 0.1
    lora = LoraConfig(target_modules=["q_proj"], lora_dropout=0.1)
    model = get_peft_model(base, lora) if of_adapter else base
    assert left_out(model)
    seen = calls(base)
    for trains in (True, False):
        model.train(trains)(**alike(), use_cache=False, fused_lm_head=True)
    assert seen == [(1, 8 + 11 + 9 + 6), (1, 8 + 11 + 9 + 6 - 5 - 4)]


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


@pytest.mark.parametrize("make", [batch, alike, lambda: batch("left"), lambda: alike("left", (8, 8, 8, 8, 9))])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_scores_of_rows_are_those_of_padded_ones(make: Callable[[], dict[str, Tensor]], with_adapter: bool):
    found = []
    for without in (False, True):
        torch.manual_seed(3)
        config = small("qwen3", "sdpa").config
        config.num_labels = 1
        base = AutoModelForSequenceClassification.from_config(config).eval()
        lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(base, lora) if with_adapter else base
        assert not without or left_out(model)
        seen, rows = calls(base), make()
        rows["input_ids"] = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, config.pad_token_id)
        rows["input_ids"][1, 3] = config.pad_token_id  # within a row
        scores = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        (scores[:, 0] * torch.arange(1, len(scores) + 1)).sum().backward()
        gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        found.append((scores, gradients, seen[0]))
    (scores, gradients, _), (own, own_gradients, shape) = found
    assert shape[0] == 1
    assert torch.allclose(own, scores, atol=2e-5)
    assert own_gradients.keys() == gradients.keys()
    assert any("score" in name for name in gradients)
    for name, each in gradients.items():
        assert torch.allclose(own_gradients[name], each, atol=2e-5), name


def test_a_row_that_ends_in_the_paddings_token_is_scored_where_it_always_was():
    model = AutoModelForSequenceClassification.from_config(small("llama", "sdpa").config).eval()
    plain = deepcopy(model)
    assert left_out(model)
    rows = batch()
    rows["input_ids"] = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, 0)
    rows["input_ids"][0, 6], rows["input_ids"][3] = 0, 0
    found = [each(rows["input_ids"], rows["attention_mask"]).logits for each in (model, plain)]
    named = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    assert torch.equal(*found)
    assert torch.allclose(named, found[0], atol=2e-5)
