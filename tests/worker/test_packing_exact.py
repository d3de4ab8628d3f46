"""Packed and unpacked training are the same: loss and every gradient of the same documents agree to 1e-5.

The documents go through our packing and collator into the trainer's own loss; what they are compared with is each
document alone, without padding, mask or positions, summed by hand.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import LORA
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftcli.methods import get_method
from ftcli.packable import PACKS_EXACTLY
from ftcli.worker.collate import PackedBlocks, positions_of
from ftcli.worker.packing import packed
from ftcli.worker.trainer import make_trainer

TOLERANCE = 1e-5
LENGTHS = (7, 5, 9, 1, 12, 3, 20)
BLOCK = 16
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "head_dim": 16},
    "gemma3_text": {"sliding_window": 4, "head_dim": 16},
    "gemma": {"head_dim": 16},
}


def small(model_type: str, attention: str) -> Any:
    config = AutoConfig.for_model(
        model_type,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1 if model_type not in ("phi", "gpt2", "opt") else 2,
        vocab_size=160,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SHAPES.get(model_type, {}),
    )
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 160, (length,), generator=generator).tolist() for length in LENGTHS]


def blocks(strategy: str) -> list[dict[str, Any]]:
    rows = documents() if strategy != "bfd" else [row for row in documents() if len(row) <= BLOCK]
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
    # Every third token is not trained, as a prompt's are not.
    labels = [[-100 if index % 3 == 0 else token for index, token in enumerate(row)] for row in rows]
    table = pa.table({"input_ids": rows, "labels": labels}, schema=schema)
    return [block for batch in packed(iter([table]), BLOCK, strategy) for block in batch.to_pylist()]


def pieces(found: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """The documents, or their parts, that the blocks hold, with their labels."""
    result = []
    for block in found:
        ends = [0]
        for length in block["seq_lengths"]:
            ends.append(ends[-1] + length)
        result += [(block["input_ids"][a:b], block["labels"][a:b]) for a, b in pairwise(ends)]
    return result


def alone(model: Any, found: list[dict[str, Any]]) -> tuple[torch.Tensor, int]:
    """Loss in nats summed over each document by itself, and the tokens that it counts."""
    total, count = torch.zeros(()), 0
    for ids, labels in pieces(found):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        target = torch.tensor(labels)[1:]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], target, reduction="sum", ignore_index=-100)
        count += int((target != -100).sum())
    return total, count


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def together(model: Any, found: list[dict[str, Any]]) -> torch.Tensor:
    """Loss in nats summed over the blocks as one batch."""
    batch = PackedBlocks(pad_token_id=0)(found)
    del batch["attention_mask"]
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits.float()
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum", ignore_index=-100)


KERNELS = [
    (kind, attention)
    for kind in sorted(PACKS_EXACTLY)
    for attention in ("sdpa", "eager")
    if (kind, attention) != ("gemma2", "sdpa")  # it caps its scores, which that kernel cannot
]


@pytest.mark.parametrize(("model_type", "attention"), KERNELS, ids=lambda value: str(value))
def test_packed_documents_have_the_loss_and_gradients_of_each_alone(model_type, attention):
    model, found = small(model_type, attention), blocks("wrapped")
    (expected, count), given = alone(model, found), together(model, found)
    assert count > 20
    assert given.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert largest_difference(gradients(model, given / count), gradients(model, expected / count)) < TOLERANCE


def test_opt_is_left_out_because_it_takes_positions_from_the_mask():
    model, found = small("opt", "sdpa"), blocks("wrapped")
    assert together(model, found).item() != pytest.approx(alone(model, found)[0].item(), rel=TOLERANCE)
    assert "opt" not in PACKS_EXACTLY


def test_flex_attention_sees_each_document_alone():
    # Its backward pass does not exist on CPU; tests/gpu holds the gradients.
    model, found = small("llama", "flex_attention"), blocks("wrapped")
    with torch.no_grad():
        assert together(model, found).item() == pytest.approx(alone(model, found)[0].item(), rel=TOLERANCE)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_the_trainer_computes_that_loss(strategy, peft, checkpointing, tokenizer, tmp_path):
    from trl import SFTConfig

    found = blocks(strategy)
    rows = Dataset.from_list(found)
    config = SFTConfig(
        output_dir=str(tmp_path),
        packing=True,
        packing_strategy=strategy,
        max_length=BLOCK,
        per_device_train_batch_size=len(found),
        gradient_checkpointing=checkpointing,
        bf16=False,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
    )
    model = small("llama", "sdpa")
    values = {key: value for key, value in LORA.items() if key not in ("name", "lora_dropout")}
    adapter = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **values) if peft else None
    trainer = make_trainer(get_method("sft"), config, model, tokenizer, train=rows, held_out=None, peft=adapter)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == len(found)  # not one row of all of them
    expected, count = alone(trainer.model, found)
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(count))
    assert loss.item() == pytest.approx(expected.item() / count, rel=TOLERANCE)
    given, wanted = gradients(trainer.model, loss), gradients(trainer.model, expected / count)
    assert largest_difference(given, wanted) < TOLERANCE
    assert trainer._total_train_tokens == sum(len(block["input_ids"]) for block in found)


PROMPTS = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "p_tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_learning_would_let_packed_documents_see_each_other(name):
    # The reason why the front half refuses the two together.
    model = get_peft_model(small("llama", "sdpa"), PROMPTS[name]).eval()
    first, second = documents()[:2]
    positions = positions_of([len(first), len(second)])[None]
    with torch.no_grad():
        both = model(input_ids=torch.tensor([first + second]), position_ids=positions).logits
        own = model(input_ids=torch.tensor([second])).logits
    assert not torch.allclose(both[0, -len(second) :], own[0, -len(second) :], atol=1e-3)
