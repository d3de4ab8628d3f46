"""What a method declares of its usual training: rates, passes over the rows, the rows of a step, the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.settings.sourced_defaults import BySize, Default

GROUP, GENERATION = "num_generations", "generation_batch_size"


SHARED: Mapping[str, Default] = {
    "optim": Default(
        value="adamw_torch_fused", source="AdamW: every recipe named here; paged for QLoRA (Dettmers et al.)"
    ),
    "weight_decay": Default(value=0.0, source="Tulu 3, Zephyr, TRL: 0"),
    "adam_beta1": Default(value=0.9, source="Zephyr, OLMo 2, QLoRA: 0.9"),
    "adam_beta2": Default(value=0.999, source="Zephyr, HALOs, QLoRA 7B and 13B: 0.999"),
    "max_grad_norm": Default(value=1.0, source="TRL, OLMo 2, Tulu 3's PPO: 1; SmolLM3: 0.2, QLoRA: 0.3"),
}
"""What all methods share unless they declare their own: the values of the `train` group, or the library's."""


@dataclass(frozen=True, kw_only=True)
class TrainingDefaults:
    """The training of a method where the user says nothing else."""

    full: BySize
    """Learning rate of full fine-tuning."""
    adapter: BySize
    """Learning rate of LoRA; an adapter of another kind trains at a multiple of it."""
    epochs: Default
    batch: Default
    """Rows of an optimiser step over all devices; prompts, where each gets a group of answers."""
    schedule: Default
    warmup: Default
    """Share of the steps in which the rate rises."""
    critic: Default | None = None
    """Learning rate of its critic over the policy's; None: it has none."""
    least_critic: Default | None = None
    """The critic's learning rate at least."""
    more: Mapping[str, Default] = field(default_factory=dict)
    """Further fields of TrainingArguments."""

    @property
    def settings(self) -> Mapping[str, Default]:
        """The fields of TrainingArguments that do not depend on the model."""
        fixed = {"num_train_epochs": self.epochs, "lr_scheduler_type": self.schedule, "warmup_steps": self.warmup}
        return {**fixed, **self.more}


def rows_of_a_step(batch: int, method: Mapping[str, Any]) -> int:
    """Rows of an optimiser step: of a method that groups answers, those of all its prompts.

    Args:
        batch: rows, or prompts.
        method: its settings, completed.
    """
    if not method.get(GROUP):
        return batch
    if method.get(GENERATION):  # all answers that are sampled at a time
        return int(method[GENERATION])
    return batch * int(method[GROUP])
