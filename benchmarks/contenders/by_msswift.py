"""ms-swift, by `swift sft` and `swift rlhf`."""

from __future__ import annotations

from pathlib import Path

from contenders.work import RANK, CannotDo, Contender, Work

_KINDS = {"dpo": "dpo", "kto": "kto", "orpo": "orpo", "reward": "rm"}


def arguments(work: Work, folder: Path) -> list[str]:
    """The module that its command starts, with everything as options."""
    if work.packed:
        raise CannotDo("it packs with flash attention alone, which a CPU has not")
    if work.processes > 1:
        raise CannotDo("several processes are only measured against TRL")
    kind = "rlhf" if work.method in _KINDS else "sft"
    options = {
        "model": work.model, "model_type": "llama", "template": "chatml", "tuner_type": "lora",
        "dataset": work.rows["alpaca" if work.method == "sft" else "swift"],
        "torch_dtype": "bfloat16" if work.bfloat16 else "float32",
        "lora_rank": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0, "target_modules": "all-linear",
        "attn_impl": "sdpa", "max_length": work.longest, "num_train_epochs": 1, "max_steps": work.steps or -1,
        "per_device_train_batch_size": work.batch, "gradient_accumulation_steps": 1, "learning_rate": 1e-4,
        "gradient_checkpointing": "false", "logging_steps": 10, "save_strategy": "no", "eval_strategy": "no",
        "split_dataset_ratio": 0, "output_dir": folder / "out", "use_cpu": "true", "report_to": "none",
        "dataset_num_proc": work.workers, "dataloader_num_workers": 0, "dataloader_pin_memory": "false",
        "load_from_cache_file": "false", "add_version": "false", "bf16": str(work.bfloat16).lower(), "fp16": "false",
    }  # fmt: skip
    if kind == "rlhf":
        options["rlhf_type"] = _KINDS[work.method]
    if work.grouped:
        options["group_by_length"] = "true"
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["-c", f"from swift.pipelines import {kind}_main; {kind}_main()", *words]


CONTENDER = Contender(
    "msswift",
    "ms-swift",
    frozenset({"sft", *_KINDS}),
    arguments,
    settings="whole logits; rows of one length together",
    alone=("ms-swift==4.6.0",),
    keys={"kto": "completion_input_ids"},
)
