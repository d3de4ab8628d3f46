"""TRL's reward trainer, with a weight for each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer import reward_trainer

from ftcli.worker.trainers.units import HIGHEST, LOWEST, Units
from ftcli.worker.trainers.weighted_loss import WeighedRows, recorded, weighted_mean


class _Ranking(reward_trainer.RewardTrainer):  # type: ignore[misc]
    """Ranks pairs, each with its `relative_weights`."""

    relative_weights: Tensor | None = None

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **kwargs: Any) -> Any:
        """TRL's metrics, and the weighted mean of the losses of the pairs."""
        if self.relative_weights is None:
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        called, outputs = recorded(model)
        margin = inputs.get("margin", 0.0)
        plain = super().compute_loss(called, inputs, return_outputs, *args, **kwargs)
        chosen, rejected = outputs[0].logits.squeeze(-1).chunk(2)
        losses = -logsigmoid(chosen - rejected - margin)
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (chosen + rejected) ** 2
        loss = weighted_mean(losses, self.relative_weights)
        return (loss, plain[1]) if return_outputs else loss


class RewardTrainer(WeighedRows, _Ranking):
    """Reward modelling (Ouyang et al. 2022, arXiv:2203.02155)."""

    loss_unit = "pairs"
    metric_units: ClassVar = {"min_reward": (LOWEST, "pairs"), "max_reward": (HIGHEST, "pairs")}

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """As its parent; chosen and rejected sequences are in one batch."""
        return {"pairs": len(inputs["input_ids"]) // 2}
