"""What is shown of an architecture: it is counted right, trains packed and apart alike, and its adapter comes back.

A small random model of the class is trained by the trainer that runs use, without its data path: an architecture meets
rows as token ids. Its plan is the worker's measurement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from ftcli import tiny
from ftcli.methods import get_method
from ftcli.models.layout import Layout
from ftcli.models.read_config import shape_from_layout
from ftcli.peft_methods.lora_counts import lora_parameters
from ftcli.worker.models.architecture import layout_of
from ftcli.worker.models.load import with_adapter
from ftcli.worker.models.packing_trial import documents, small_model
from ftcli.worker.models.text_models import causal_config
from ftcli.worker.training.expert_targets import reach_experts
from ftcli.worker.training.trainer import make_trainer
from ftcli.worker.tuners.adapter_tensors import lost_by_peft, merged
from tests.matrix.architectures import configuration

STEPS, R = 3, 4
MERGE_TOLERANCE = 2e-4
"""Largest difference of a logit between an adapter and what it was merged into, relative to the largest logit."""
PROBE = torch.arange(5, 25)[None]


def prove(model_type: str, folder: Path, layout: Layout) -> None:
    """Three steps of the model, packed and apart, and of an adapter on it, which resumes; after `measured`.

    Raises:
        AssertionError, or whatever the library raises.
    """
    rows = [{"input_ids": row, "labels": row} for row in documents() if len(row) > 1]
    _trained(_loaded(folder / "base"), rows, folder / "apart", packed=False)
    if layout.packs:
        blocks = [{**_block(rows), "seq_lengths": [len(row["input_ids"]) for row in rows]}]
        _trained(_loaded(folder / "base"), blocks * 4, folder / "packed", packed=True)
    _adapter_trains(folder, rows)


def measured(model_type: str, folder: Path) -> tuple[dict[str, Any], Layout]:
    """What holds without a training step: counts, LoRA with experts, its reload and its merge.

    Raises:
        AssertionError, or whatever the library raises.
    """
    config = causal_config(configuration(model_type))
    whole = small_model(config)
    layout = layout_of(whole, whole.config)
    real = sum(p.numel() for p in whole.parameters())
    planned = sum(module.num_own_parameters for module in layout.modules)
    assert planned == real, f"{planned} parameters planned, {real} are there"
    whole.save_pretrained(folder / "base")
    facts = {
        "parameters": real,
        "packs": layout.packs,
        "packing": layout.packing,
        "experts": any(module.kind == "experts" for module in layout.modules),
        **_adapter_returns(folder, layout),
    }
    return facts, layout


def _adapter_returns(folder: Path, layout: Layout) -> dict[str, int]:
    """A random adapter on all linear layers and experts: counted, saved, reloaded and merged."""
    model = get_peft_model(*_with_lora(folder, init_lora_weights=False)).eval()
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = shape_from_layout(layout, model.get_base_model().config.to_dict(), None)
    counted = lora_parameters(shape, R, "all-linear")
    assert counted == trains, f"{counted} counted to train, {trains} train"
    # Gemma 3n's modality_router mixes the streams of a layer: it chooses no experts.
    trained = [n.replace("modality_router", "") for n, p in model.named_parameters() if p.requires_grad]
    routers = [name for name in trained if "router" in name or ".gate.lora" in name]
    assert not routers, f"a router trains: {routers[0]}"
    expected = _logits(model)
    model.save_pretrained(folder / "adapter")
    again = with_adapter(_loaded(folder / "base"), folder / "adapter")
    assert torch.equal(_logits(again), expected), "the reloaded adapter differs"
    plain = merged(again, "the adapter", "serve it as it is", safe_merge=True)
    off = (_logits(plain) - expected).abs().max() / expected.abs().max()
    assert off < MERGE_TOLERANCE, f"the merged model is {off:.0e} off"
    lost = lost_by_peft(model, load_file(folder / "adapter" / "adapter_model.safetensors"), "default")
    return {"trainable": trains, **({"lost_by_peft": len(lost)} if lost else {})}


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=PROBE, use_cache=False).logits
    return found


def _with_lora(folder: Path, **more: Any) -> tuple[Any, Any]:
    """The small model, and LoRA's config as a run resolves it for that model."""
    base = _loaded(folder / "base")
    adapter = LoraConfig(task_type="CAUSAL_LM", r=R, target_modules="all-linear", **more)
    reach_experts(adapter, base)
    return base, adapter


def _adapter_trains(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The adapter moves, and a run resumed after its second step ends with the same one."""
    trainer, model = _lora(folder, rows, folder / "lora")
    trainer.train()
    assert any(p.requires_grad and "lora_B" in n and p.abs().sum() for n, p in model.named_parameters()), (
        "nothing moved"
    )
    _resumed(folder, rows, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})


def _resumed(folder: Path, rows: list[dict[str, Any]], wanted: dict[str, torch.Tensor]) -> None:
    """A run resumed after its second step ends with the same adapter."""
    trainer, model = _lora(folder, rows, folder / "resumed")
    trainer.train(resume_from_checkpoint=str(folder / "lora" / "checkpoint-2"))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.detach(), wanted[name]), f"resumed, {name} differs"


def _lora(folder: Path, rows: list[dict[str, Any]], to: Path) -> tuple[Any, Any]:
    base, adapter = _with_lora(folder)
    trainer = _trainer(base, rows, to, packed=False, peft=adapter)
    return trainer, trainer.model


def _trained(model: Any, rows: list[dict[str, Any]], to: Path, *, packed: bool) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = _trainer(model, rows, to, packed=packed)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == STEPS, losses
    assert all(torch.isfinite(torch.tensor(losses))), losses
    assert any(not torch.equal(p.detach(), before[name]) for name, p in model.named_parameters()), "nothing moved"


def _trainer(model: Any, rows: list[dict[str, Any]], to: Path, *, packed: bool, peft: Any = None) -> Any:
    config = SFTConfig(
        output_dir=str(to),
        max_steps=STEPS,
        per_device_train_batch_size=1 if packed else 2,
        learning_rate=1e-2 if peft else 1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=2,
        save_strategy="steps" if peft else "no",
        bf16=False,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=False,
        max_length=sum(len(row["input_ids"]) for row in rows[:1]) if packed else None,
        packing=packed,
        disable_tqdm=True,
        seed=3,
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    data = Dataset.from_list(rows)
    return make_trainer(get_method("sft"), config, model, tokenizer, train=data, held_out=None, peft=peft)


def _block(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {name: [token for row in rows for token in row[name]] for name in ("input_ids", "labels")}


def _loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
