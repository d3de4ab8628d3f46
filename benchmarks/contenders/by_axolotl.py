"""Axolotl, by `axolotl train --launcher python`, which starts faster than through accelerate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contenders.work import RANK, CannotDo, Contender, Work

_CLI = "from axolotl.cli.main import main; main()"
_CHATML = "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n"
_ALPACA = {
    "field_instruction": "instruction", "field_input": "input", "field_output": "output", "format": _CHATML,
    "no_input_format": _CHATML.replace("\n{input}", ""),
}  # fmt: skip


def arguments(work: Work, folder: Path) -> list[str]:
    """Its command with a file of settings."""
    if work.processes > 1:
        raise CannotDo("several processes are only measured against TRL")
    settings: dict[str, Any] = {
        "base_model": str(work.model), "datasets": [_entry(work)], "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"), "sequence_len": work.longest, "adapter": "lora", "lora_r": RANK,
        "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "lora_target_linear": True, "micro_batch_size": work.batch,
        "gradient_accumulation_steps": 1, "num_epochs": 1, "learning_rate": 1e-4, "optimizer": "adamw_torch",
        "lr_scheduler": "linear", "logging_steps": 10, "save_strategy": "no", "sdp_attention": True,
        "bf16": work.bfloat16, "fp16": False, "tf32": False, "gradient_checkpointing": False, "val_set_size": 0,
        "dataset_num_proc": work.workers, "dataloader_pin_memory": False, "seed": 42, "sample_packing": work.packed,
        "pad_to_sequence_len": work.packed,
        # Its own kernels of LoRA are Triton's.
        "lora_qkv_kernel": False, "lora_o_kernel": False, "lora_mlp_kernel": False, "lora_embedding_kernel": False,
    }  # fmt: skip
    if work.steps:
        settings["max_steps"] = work.steps
    if work.grouped:
        settings["group_by_length"] = True
    if work.method in ("dpo", "kto", "orpo"):
        settings |= {"rl": work.method, "chat_template": "tokenizer_default"}
    if work.method == "kto":
        settings["remove_unused_columns"] = False  # which it asks for
    if work.method == "reward":
        settings |= {"reward_model": True, "model_type": "AutoModelForSequenceClassification", "num_labels": 1}
        settings["chat_template"] = "tokenizer_default"
    file = folder / "axolotl.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return ["-c", _CLI, "train", str(file), "--launcher", "python"]


def _entry(work: Work) -> dict[str, Any]:
    if work.method == "sft":
        return {"path": str(work.rows["alpaca"]), "ds_type": "json", "type": _ALPACA}
    entry = {"ds_type": "json", "split": "train"}
    if work.method == "kto":
        form = {
            "field_prompt": "prompt", "field_completion": "completion", "field_label": "label",
            "prompt_format": "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
            "completion_format": "{completion}<|im_end|>\n",
        }  # fmt: skip
        return {**entry, "path": str(work.rows["flat"]), "type": form}
    if work.method == "dpo":
        form = {
            "field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected",
            "prompt_format": "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
            "chosen_format": "{chosen}<|im_end|>\n", "rejected_format": "{rejected}<|im_end|>\n",
        }  # fmt: skip
        return {**entry, "path": str(work.rows["flat"]), "type": form}
    if work.method == "orpo":
        return {**entry, "path": str(work.rows["whole"]), "type": "chat_template.argilla"}
    return {**entry, "path": str(work.rows["bradley_terry"]), "type": "bradley_terry.chat_template"}


CONTENDER = Contender(
    "axolotl",
    "axolotl",
    frozenset({"sft", "dpo", "kto", "orpo", "reward"}),
    arguments,
    settings="whole logits; rows of one length together; packed with sample_packing",
    alone=("axolotl==0.19.0", "bitsandbytes==0.50.2", "triton==3.9.0"),
    home="axolotl_train",
    environment={"AXOLOTL_DO_NOT_TRACK": "1"},
    keys={"orpo": "chosen_input_ids,rejected_input_ids"},
)
