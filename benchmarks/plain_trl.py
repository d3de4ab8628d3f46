"""The script that ftcli is measured against: the same SFT, written by hand on TRL.

    python benchmarks/plain_trl.py MODEL ROWS OUT STEPS [--device cuda] [--batch 16] [--rate 7e-4] [--schedule cosine]

On a CPU it computes in float32; on a GPU in bfloat16, on the float32 weights that TRL loads by default.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Notes when each loss was logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.seconds.append(time.perf_counter())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("out", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--schedule", choices=("cosine", "constant"), default="cosine")
    parser.add_argument("--every", type=int, default=10, help="steps between two logged losses")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    on_card = options.device == "cuda"
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="sdpa")
    config = SFTConfig(
        output_dir=str(options.out),
        max_steps=options.steps,
        learning_rate=options.rate,
        per_device_train_batch_size=options.batch,
        lr_scheduler_type=options.schedule,
        warmup_steps=0.03 if options.schedule == "cosine" else 0,
        max_grad_norm=1.0,
        logging_steps=options.every,
        save_steps=500,
        save_total_limit=3,
        max_length=4096,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=on_card,
        use_cpu=not on_card,
        dataloader_pin_memory=on_card,
        disable_tqdm=True,
        report_to="none",
        seed=42,
        data_seed=42,
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=load_dataset("json", data_files=options.rows, split="train"),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(str(options.out / "model"))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    found = {
        "loss": logged[-1]["loss"],
        "losses": [entry["loss"] for entry in logged],
        "seconds": clock.seconds,
        "steps": options.steps,
        "tokens": logged[-1]["num_tokens"],
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if on_card else None,
    }
    (options.out / "last.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(parsed())
