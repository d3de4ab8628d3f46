"""TRL's on-policy distillation, on tokenised prompts and with a teacher loaded like every other model here.

No row is lost at the end of an epoch. Answers are sampled for each step, so a checkpoint need not hold any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from ftcli.worker.trainers.rl.rollouts import RolloutSampler, as_prompts


@dataclass
class DistillConfig(DistillationConfig):  # type: ignore[misc]
    """Fields of on-policy distillation."""

    teacher_model: str | None = None
    """The teacher: a run, a model folder or a cached hub id, with the student's vocabulary."""


class DistillTrainer(DistillationTrainer):  # type: ignore[misc]
    """Generalised knowledge distillation on the student's answers (arXiv:2306.13649, algorithm 1 with λ = 1)."""

    def __init__(self, *, teacher: Any, train_dataset: Any, eval_dataset: Any = None, **more: Any) -> None:
        super().__init__(
            teacher_model=teacher,
            train_dataset=as_prompts(train_dataset),
            eval_dataset=as_prompts(eval_dataset),
            **more,
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}

    def _get_train_sampler(self, dataset: Any = None) -> RolloutSampler:
        args, times = self.args, self.args.gradient_accumulation_steps
        size = args.per_device_train_batch_size * self.accelerator.num_processes * times
        return RolloutSampler(len(self.train_dataset), size, times, args.seed, shuffle=self.shuffle_dataset)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the cost of an answer is not known from its prompt."""
        return 0
