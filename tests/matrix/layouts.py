"""The cells of the two-process table: method or adapter × hardware profile, each a few words on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from tests.matrix.cells import PEFTS

ONE = "one"
"""The layout that all others are compared with: one process, at the same rows a step."""
LAYOUTS = {
    ONE: ("hardware=cpu", "train.gradient_accumulation_steps=2", "train.per_device_eval_batch_size=8"),
    **{
        name: (
            f"hardware={name}",
            "hardware.device=cpu",
            "train.gradient_accumulation_steps=1",
            "train.per_device_eval_batch_size=2",
        )
        for name in ("multi_gpu", "fsdp", "zero2", "zero3", "fsdp_offload", "zero3_offload")
    },
}
MAIN = ("multi_gpu", "fsdp", "zero2", "zero3")
OFFLOADED = ("fsdp_offload", "zero3_offload")
SMALL = (
    "model=tiny", "train.max_steps=4", "train.save_strategy=steps", "train.save_steps=2", "train.logging_steps=1",
    "run.score_rows=0", "train.per_device_train_batch_size=4", "hardware.num_threads=1",
    "train.learning_rate=1e-3", "train.warmup_steps=0",
)  # fmt: skip
_EVALUATED = ("train.eval_strategy=steps", "train.eval_steps=2", "data.max_eval_rows=5")
"""In batches of 8, or of 2 in each of two processes: the last one is a row that one process has alone."""
_ROWS = ("data.max_rows=48", *_EVALUATED)
_PREFERENCE = (*_ROWS, "data.max_length_tokens=64")
_SAMPLES = (
    "data.max_rows=48",
    "data.max_eval_rows=4",
    "train.eval_strategy=no",
    "method.rewards={ended: 1, length: {weight: 1, most: 4}}",
)
_GROUPS = (*_SAMPLES, "method.num_generations=4", "method.max_completion_length=12", "method.beta=0.1")
METHODS = {
    "pretrain": ("data.max_length_tokens=64", *_EVALUATED),
    "sft": (*_ROWS, "method.packing=false"),
    "instruct": ("data.max_rows=400", *_EVALUATED, "method.packing=true"),
    **dict.fromkeys(("dpo", "ipo", "kto", "orpo", "cpo", "simpo", "reward"), _PREFERENCE),
    "grpo": _GROUPS,
    "rloo": _GROUPS,
    # DeepSpeed clips the policy by the norm of its own gradients, all others by that of policy and critic together.
    "ppo": (*_SAMPLES, "method.max_new_tokens=12", "method.num_ppo_epochs=2", "train.max_grad_norm=1e9"),
}
SAMPLING = ("grpo", "rloo", "ppo")


@dataclass(frozen=True)
class Run:
    """What is trained; it is trained in every layout."""

    method: str
    peft: str

    @property
    def words(self) -> tuple[str, ...]:
        """What a user would type, with what keeps it small, without its layout."""
        choice, *more = self.peft.split(" ")
        return (f"method={self.method}", f"peft={choice}", *more, *METHODS[self.method], *SMALL)

    def __str__(self) -> str:
        return f"{self.method}-{self.peft.replace(' peft.', '-')}"


LORA = "lora peft.lora_dropout=0"
"""Dropout draws from a generator in each process."""
MAIN_RUNS = [Run(method, peft) for method in METHODS for peft in ("none", LORA)]
ADAPTER_RUNS = [Run("sft", peft) for peft in PEFTS if peft not in ("none", "lora")]
CELLS = (
    [(run, layout) for run in MAIN_RUNS for layout in MAIN]
    + [(run, layout) for run in MAIN_RUNS if run.method in ("sft", "dpo") for layout in OFFLOADED]
    + [(run, layout) for run in ADAPTER_RUNS for layout in MAIN]
)
SPREAD = [(Run("sft", LORA), "fsdp"), (Run("dpo", "none"), "zero3")]
"""The sample of `make test`."""
