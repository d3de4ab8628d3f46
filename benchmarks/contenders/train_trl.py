"""What a user of TRL writes for each method.   ASKED.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


def classes(method: str) -> tuple[Any, Any]:
    """The configuration and the trainer."""
    if method == "sft":
        from trl import SFTConfig, SFTTrainer

        return SFTConfig, SFTTrainer
    if method == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOConfig, DPOTrainer
    if method == "kto":
        from trl import KTOConfig, KTOTrainer

        return KTOConfig, KTOTrainer
    if method == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return ORPOConfig, ORPOTrainer
    if method == "grpo":
        from trl import GRPOConfig, GRPOTrainer

        return GRPOConfig, GRPOTrainer
    from trl import RewardConfig, RewardTrainer

    return RewardConfig, RewardTrainer


def right(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 for an answer that is the right one."""
    return [float(said[0]["content"].strip() == wanted) for said, wanted in zip(completions, answer, strict=True)]


def main(asked: dict[str, Any]) -> None:
    method = asked["method"]
    config, trainer = classes(method)
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    how = {"dtype": torch.bfloat16 if asked["bfloat16"] else torch.float32, "attn_implementation": "sdpa"}
    if method == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(asked["model"], num_labels=1, **how)
    else:
        model = AutoModelForCausalLM.from_pretrained(asked["model"], **how)
    task = "SEQ_CLS" if method == "reward" else "CAUSAL_LM"
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type=task)
    more: dict[str, Any] = {"packing": True} if asked["packed"] else {}
    if asked["grouped"]:
        more["train_sampling_strategy"] = "group_by_length"
    more |= asked["grpo"] if method == "grpo" else {"max_length": asked["longest"]}
    args = config(
        output_dir=asked["out"],
        max_steps=asked["steps"] or -1,
        num_train_epochs=1,
        learning_rate=1e-4,
        per_device_train_batch_size=asked["batch"],
        gradient_checkpointing=False,
        logging_steps=10,
        save_strategy="no",
        bf16=asked["bfloat16"],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        **more,
    )
    if asked["workers"] > 1:
        args.dataset_num_proc = asked["workers"]
    rows = load_dataset("json", data_files=asked["rows"], split="train")
    given = {"reward_funcs": right} if method == "grpo" else {}
    owner = trainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora, **given)
    owner.train()
    owner.save_model(str(Path(asked["out"]) / "model"))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
