"""TRL's on-policy distillation, on tokenised prompts and with a teacher loaded like every other model here.

No row is lost at the end of an epoch. Answers are sampled for each step, so a checkpoint need not hold any. Those to
held-out prompts are drawn alike each time, so that their loss compares models and not draws (not with vLLM, which draws
itself).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.distillation_trainer import DistillationTrainer

from ftcli.worker.inference.fixed_draws import FixedDraws, drawing
from ftcli.worker.trainers.rl.rollouts import RolloutSampler, as_prompts
from ftcli.worker.trainers.units import HIGHEST, LOWEST, Counted, Units


@dataclass
class DistillConfig(DistillationConfig):  # type: ignore[misc]
    """Fields of on-policy distillation."""

    teacher_model: str | None = None
    """The teacher: a run, a model folder or a cached hub id, with the student's vocabulary."""


class DistillTrainer(Counted, DistillationTrainer):  # type: ignore[misc]
    """Generalised knowledge distillation on the student's answers (arXiv:2306.13649, algorithm 1 with λ = 1)."""

    loss_unit = "tokens"
    metric_units: ClassVar = {
        "completions/mean_length": "answers",
        "completions/clipped_ratio": "answers",
        "completions/mean_terminated_length": "ended",
        **{f"completions/{end}_length": (way, "answers") for end, way in (("min", LOWEST), ("max", HIGHEST))},
        **{f"completions/{end}_terminated_length": (way, "ended") for end, way in (("min", LOWEST), ("max", HIGHEST))},
        "step_time": "batches",
    }
    _sampled: tuple[float, float] = (0.0, 0.0)
    """Answers of the last generation, and those that ended, in the mean of the processes that report them."""

    def __init__(self, *, teacher: Any, train_dataset: Any, eval_dataset: Any = None, **more: Any) -> None:
        super().__init__(
            teacher_model=teacher,
            train_dataset=as_prompts(train_dataset),
            eval_dataset=as_prompts(eval_dataset),
            **more,
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        return prompts, None, {}

    def units(self, inputs: Any) -> Units:
        """As its parent; of prompts that are not answered yet, none."""
        if not isinstance(inputs, dict):
            return {}
        answers, ended = self._sampled
        return {"tokens": inputs["completion_mask"].sum(), "answers": answers, "ended": ended, "batches": 1}

    def units_of_step(self, inputs: Any) -> Units:
        """As its parent: the answers are sampled after the batches were read."""
        return {"tokens": inputs["num_items_in_batch"]} if self.model.training else {}

    def is_part(self, num_items_in_batch: Any) -> bool:
        """As its parent."""
        return True

    def _generate(self, prompts: list[Any]) -> Any:
        found = super()._generate(prompts)
        # As TRL, which reports an answer as ended if its last token is an end, or padding.
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        own = torch.tensor([[len(prompts), sum(ids[-1] in ends for ids in found[1])]], device=self.accelerator.device)
        answers, ended = self.accelerator.gather(own).double().mean(0).tolist()
        self._sampled = (answers, ended)
        return found

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        drawn = (
            nullcontext()
            if self.model.training or self.use_vllm
            else drawing(FixedDraws.of(prompt_ids, self.args.seed))
        )
        with drawn:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> RolloutSampler:
        args, times = self.args, self.args.gradient_accumulation_steps
        size = args.per_device_train_batch_size * self.accelerator.num_processes * times
        return RolloutSampler(len(self.train_dataset), size, times, args.seed, shuffle=self.shuffle_dataset)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the cost of an answer is not known from its prompt."""
        return 0
