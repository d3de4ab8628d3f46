"""ftcli, as its user would type it."""

from __future__ import annotations

from pathlib import Path

from contenders.work import GRPO, RANK, Contender, Work

_ROWS = {"sft": "alpaca"}


def arguments(work: Work, folder: Path) -> list[str]:
    """`ftcli train` with everything as words."""
    length = "max_steps" if work.steps else "num_train_epochs"
    rows = work.rows[_ROWS.get(work.method, "trl")]
    words = [
        f"method={work.method}", f"model.name_or_path={work.model}", f"data.path={rows}",
        "peft=lora", f"peft.r={RANK}", f"peft.lora_alpha={2 * RANK}", "peft.target_modules=all-linear",
        "peft.lora_dropout=0", "hardware=cpu", "hardware.num_threads=1", f"hardware.num_processes={work.processes}",
        f"train.{length}={work.steps or 1}", f"train.per_device_train_batch_size={work.batch}",
        "train.gradient_accumulation_steps=1", "train.gradient_checkpointing=false", "train.learning_rate=1e-4",
        "train.logging_steps=10", "train.save_strategy=no", "train.eval_strategy=no", "run.score_rows=0",
        f"run.dir={folder / 'run'}",
    ]  # fmt: skip
    if work.bfloat16:
        words.append("train.bf16=true")
    if work.method == "sft":
        words.append(f"method.packing={str(work.packed).lower()}")
    if work.method == "grpo":
        words += [f"method.{name}={value}" for name, value in GRPO.items()]
        words += ["method.rewards={exact_answer: 1.0}"]
    else:
        words.append(f"data.max_length_tokens={work.longest}")
    return ["-m", "ftcli", "train", *words]


CONTENDER = Contender(
    "ftcli",
    "ftcli",
    frozenset({"sft", "dpo", "kto", "orpo", "reward", "grpo"}),
    arguments,
    settings="as it derives them; rows without padding, whichever head and attention it chose",
)
