"""The script that ftcli is measured against: the same SFT, written by hand on TRL."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(model_dir: str, rows: str, out: str, steps: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa")
    config = SFTConfig(
        output_dir=out,
        max_steps=steps,
        learning_rate=7e-4,
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        max_grad_norm=1.0,
        logging_steps=10,
        save_steps=500,
        save_total_limit=3,
        max_length=4096,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        seed=42,
        data_seed=42,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=load_dataset("json", data_files=rows, split="train"),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(Path(out) / "model"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    Path(out, "last.json").write_text(json.dumps({"loss": losses[-1]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
