"""TRL's reward trainer, with soft labels, and with a weight for each pair.

A pair whose row states a probability p that the chosen answer is the better one is learned from by the cross-entropy
−p log σ(d) − (1 − p) log σ(−d), d the difference of the scores (Lee et al. 2023, arXiv:2309.00267, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow.compute as pc
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer import reward_trainer

from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.worker.process.own_lines import say
from ftcli.worker.trainers.units import HIGHEST, LOWEST, Units
from ftcli.worker.trainers.weighted_loss import WeighedRows, recorded, weighted_mean

_SOFT = SOFT_LABEL[0]


class _Ranking(reward_trainer.RewardTrainer):  # type: ignore[misc]
    """Ranks pairs, each with its soft label and its `relative_weights`."""

    relative_weights: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.process_index == 0:
            _show_labels(self.train_dataset)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        own: Any = self
        if _SOFT not in own._signature_columns:
            own._signature_columns = [*own._signature_columns, _SOFT]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **kwargs: Any) -> Any:
        """TRL's metrics, and the weighted mean of the losses of the pairs."""
        labels = inputs.pop(_SOFT, None)
        if self.relative_weights is None and labels is None:
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        called, outputs = recorded(model)
        margin = inputs.get("margin", 0.0)
        plain = super().compute_loss(called, inputs, return_outputs, *args, **kwargs)
        chosen, rejected = outputs[0].logits.squeeze(-1).chunk(2)
        losses = -logsigmoid(chosen - rejected - margin)
        if labels is not None:
            losses = labels * losses - (1 - labels) * logsigmoid(rejected - chosen)
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


def _show_labels(rows: Any) -> None:
    """Say how many pairs of a data set have a soft label; a stream's are not known before."""
    if not isinstance(rows, Dataset) or _SOFT not in rows.column_names:
        return
    column = rows.with_format("arrow").select_columns(_SOFT)[:].column(_SOFT)
    soft, mean = len(column) - column.null_count, pc.mean(column).as_py()
    if soft:
        say(f"labels  {soft} of {len(column)} pairs are soft, {mean:.3g} on average; others are certain")
