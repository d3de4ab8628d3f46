"""Packed and unpacked training are the same: loss and every gradient of the same documents agree to 1e-5.

The documents go through our packing and collator into the trainer's own loss. What they are compared with is each
document alone, without padding, mask or positions, summed by hand; and the same trainer with rows that are not packed.
"""

from __future__ import annotations

import os
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftcli.methods import get_method
from ftcli.models.families import FAMILIES
from ftcli.models.packing_support import PACKS_EXACTLY
from ftcli.worker.tokenise.collate import PackedBlocks, collator_of, positions_of
from ftcli.worker.tokenise.packing import packed
from ftcli.worker.training.trainer import make_trainer
from tests.worker.conftest import LORA

TOLERANCE = 1e-5
LENGTHS = (7, 5, 9, 1, 12, 3, 20)
BLOCK = 16
# A window that is shorter than a document, and where layers differ, one of either kind.
WINDOW = {"sliding_window": 4}
SOME_WINDOWS = {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}
KINDS_OF_LAYERS = {**WINDOW, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {
    "num_key_value_heads": 2, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "deepseek_v2": EXPERTS,
    "deepseek_v3": EXPERTS,
    "gemma": {"head_dim": 16},
    "gemma2": KINDS_OF_LAYERS,
    "gemma3_text": KINDS_OF_LAYERS,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_neox": {"num_key_value_heads": 2},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": WINDOW,
    "opt": {"num_key_value_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {"num_key_value_heads": 2},
    "phi3": WINDOW,
    "qwen2": SOME_WINDOWS,
    "qwen3": {**SOME_WINDOWS, "head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
    "starcoder2": WINDOW,
}


def small(model_type: str, attention: str) -> Any:
    shape = {"num_key_value_heads": 1, **SHAPES.get(model_type, {})}
    config = AutoConfig.for_model(
        model_type,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=160,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **shape,
    )
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 160, (length,), generator=generator).tolist() for length in LENGTHS]


def blocks(strategy: str) -> list[dict[str, Any]]:
    rows = documents() if strategy != "bfd" else [row for row in documents() if len(row) <= BLOCK]
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
    # Every third token is not trained, as a prompt's are not; the first is, as raw text's is, and must not be.
    labels = [[-100 if index % 3 == 1 else token for index, token in enumerate(row)] for row in rows]
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


def summed(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Loss in nats summed over a collated batch."""
    labels = batch["labels"]
    given = {name: value for name, value in batch.items() if name not in ("labels", "attention_mask")}
    logits = model(**given, use_cache=False).logits.float()
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum", ignore_index=-100)


def together(model: Any, found: list[dict[str, Any]]) -> torch.Tensor:
    """Loss in nats summed over the blocks as one batch."""
    return summed(model, PackedBlocks(pad_token_id=0)(found))


KERNELS = [
    (kind, attention)
    for kind in sorted(PACKS_EXACTLY)
    for attention in ("sdpa", "eager")
    if attention != "sdpa" or kind not in FAMILIES or FAMILIES[kind].sdpa
]


@pytest.mark.parametrize(("model_type", "attention"), KERNELS, ids=lambda value: str(value))
def test_packed_documents_have_the_loss_and_gradients_of_each_alone(model_type, attention):
    model, found = small(model_type, attention), blocks("wrapped")
    (expected, count), given = alone(model, found), together(model, found)
    assert count > 20
    assert given.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert largest_difference(gradients(model, given / count), gradients(model, expected / count)) < TOLERANCE


def test_positions_that_do_not_start_again_would_be_seen():
    # The tolerance tells documents that see each other: their gradients are a thousand times further off.
    model, found = small("llama", "sdpa"), blocks("wrapped")
    batch = PackedBlocks(pad_token_id=0)(found)
    batch["position_ids"] = torch.arange(BLOCK).expand_as(batch["position_ids"])
    expected, count = alone(model, found)
    leaky = gradients(model, summed(model, batch) / count)
    assert largest_difference(leaky, gradients(model, expected / count)) > 1000 * TOLERANCE


@pytest.mark.parametrize("model_type", sorted(FAMILIES.keys() - PACKS_EXACTLY))
def test_a_family_that_is_left_out_lets_documents_see_each_other(model_type):
    model, found = small(model_type, "eager"), blocks("wrapped")
    (expected, count), given = alone(model, found), together(model, found)
    assert largest_difference(gradients(model, given / count), gradients(model, expected / count)) > 100 * TOLERANCE


def test_only_opt_and_gpt_oss_are_left_out_of_the_families():
    assert FAMILIES.keys() - PACKS_EXACTLY == {"opt", "gpt_oss"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_one_row_of_all_blocks_has_the_same_loss(attention):
    # As flash attention takes them.
    model, found = small("llama", attention), blocks("bfd")
    batch = PackedBlocks(pad_token_id=0, padding_free=True, pad_to_multiple_of=8)(found)
    assert batch["input_ids"].shape[0] == 1
    assert int(batch["attention_mask"].sum()) == sum(len(block["input_ids"]) for block in found)
    assert summed(model, batch).item() == pytest.approx(alone(model, found)[0].item(), rel=TOLERANCE)


def test_blocks_stay_rows_where_the_kernel_takes_a_mask():
    def flat(kernel: str) -> bool:
        model = SimpleNamespace(config=SimpleNamespace(_attn_implementation=kernel))
        return collator_of(SimpleNamespace(), model, 0).padding_free

    assert [flat(kernel) for kernel in ("sdpa", "eager", "flex_attention")] == [False] * 3
    assert [flat(kernel) for kernel in ("flash_attention_2", "kernels-community/vllm-flash-attn3")] == [True] * 2


def test_padding_is_no_document_and_no_first_token_is_trained():
    found = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]},
        {"input_ids": [4, 3], "labels": [4, 3]},
    ]
    batch = PackedBlocks(pad_token_id=0)(found)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9], [-100, 3, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]


@pytest.mark.skipif(not os.environ.get("FTCLI_PROOF"), reason="it compiles for a minute: make proof runs it")
def test_flex_attention_sees_each_document_alone():
    # Its backward pass does not exist on CPU; tests/gpu holds the gradients.
    model, found = small("llama", "flex_attention"), blocks("wrapped")
    with torch.no_grad():
        assert together(model, found).item() == pytest.approx(alone(model, found)[0].item(), rel=TOLERANCE)


def trainer_of(rows: list[dict[str, Any]], tokenizer: Any, folder: Any, **settings: Any) -> Any:
    """A trainer that takes all of the rows as one batch, and evaluates on them too."""
    from trl import SFTConfig

    model_type, attention = settings.pop("model", ("llama", "sdpa"))
    adapter = settings.pop("peft", None)
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        per_device_eval_batch_size=len(rows),
        bf16=False,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        **{"gradient_checkpointing": False, "max_length": None, **settings},
    )
    data = Dataset.from_list(rows)
    values = {key: value for key, value in LORA.items() if key not in ("name", "lora_dropout")}
    torch.manual_seed(5)
    peft = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **values) if adapter else None
    model = small(model_type, attention)
    return make_trainer(get_method("sft"), config, model, tokenizer, train=data, held_out=data, peft=peft)


WAYS = [
    ("llama", attention, strategy, peft, checkpointing)
    for attention in ("sdpa", "eager")
    for strategy in ("bfd", "bfd_split", "wrapped")
    for peft in (None, "lora")
    for checkpointing in (False, True)
] + [
    (kind, "eager" if kind == "gemma2" else "sdpa", "wrapped", None, True)
    for kind in ("deepseek_v3", "gemma2", "gemma3_text", "gpt2", "phi", "qwen3", "smollm3")
]


@pytest.mark.parametrize(("model_type", "attention", "strategy", "peft", "checkpointing"), WAYS)
def test_the_trainer_computes_that_loss(model_type, attention, strategy, peft, checkpointing, tokenizer, tmp_path):
    found = blocks(strategy)
    packs = {"packing": True, "packing_strategy": strategy, "max_length": BLOCK}
    settings = {"model": (model_type, attention), "peft": peft, "gradient_checkpointing": checkpointing}
    trainer = trainer_of(found, tokenizer, tmp_path, **packs, **settings)
    # As gradient checkpointing runs in training mode alone; nothing here has dropout but gpt2 and phi.
    trainer.model.train()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == len(found)  # not one row of all of them
    expected, count = alone(trainer.model, found)
    assert int(trainer._get_num_items_in_batch([batch], torch.device("cpu"))) == count
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(count))
    assert loss.item() == pytest.approx(expected.item() / count, rel=TOLERANCE)
    given, wanted = gradients(trainer.model, loss), gradients(trainer.model, expected / count)
    assert largest_difference(given, wanted) < TOLERANCE
    assert trainer._noted["train"].values()["num_tokens"] == sum(len(block["input_ids"]) for block in found)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("num_items", [None, 1], ids=["mean", "sum"])
def test_the_trainer_computes_the_same_without_packing(strategy, attention, num_items, tokenizer, tmp_path):
    found = blocks(strategy)
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in pieces(found)]
    packs = {"packing": True, "packing_strategy": strategy, "max_length": BLOCK}
    results = []
    for data, settings in ((found, packs), (rows, {})):
        trainer = trainer_of(data, tokenizer, tmp_path, model=("llama", attention), **settings)
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        total = None if num_items is None else torch.tensor(num_items)
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=total)
        count = int(trainer._get_num_items_in_batch([batch], torch.device("cpu")))
        # Gradients of a sum are as large as it has tokens.
        results.append((loss.item(), count, gradients(trainer.model, loss / (count if num_items else 1))))
        results[-1] += (trainer._noted["train"].values(),)
    (loss, count, found_gradients, metrics), (other, other_count, wanted, other_metrics) = results
    assert loss == pytest.approx(other, rel=TOLERANCE)
    assert count == other_count
    assert largest_difference(found_gradients, wanted) < TOLERANCE
    for name in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert metrics[name] == pytest.approx(other_metrics[name], rel=TOLERANCE), name


def test_held_out_blocks_are_measured_as_rows_apart(tokenizer, tmp_path):
    found = blocks("wrapped")
    packs = {"packing": True, "packing_strategy": "wrapped", "max_length": BLOCK}
    trainer = trainer_of(found, tokenizer, tmp_path, **packs)
    expected, count = alone(trainer.model, found)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item() / count, rel=TOLERANCE)


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
