"""TRL's DPO, with label smoothing for the standard loss as well, where TRL only applies it to four other losses.

With A = −log σ(x) and B = −log σ(−x), x the margin of a pair, conservative DPO (Mitchell 2023, "A note on DPO with
noisy preferences", equation 3) is (1 − ε)A + εB, TRL's `sigmoid` is A and its `robust` is ((1 − ε)A − εB)/(1 − 2ε). So
the first is 2(1 − ε) times the second minus (1 − 2ε) times the third, and none of TRL's code is duplicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl.trainer.dpo_trainer import DPOTrainer


class DpoTrainer(DPOTrainer):  # type: ignore[misc]
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    loss_types: list[str]
    loss_weights: list[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.label_smoothing:
            self.loss_types, self.loss_weights = smoothed(self.loss_types, self.loss_weights, self.label_smoothing)


def smoothed(losses: Sequence[str], weights: Sequence[float], share: float) -> tuple[list[str], list[float]]:
    """TRL losses and weights that are equivalent to the given ones with a smoothed `sigmoid`.

    Args:
        share: ε, the assumed share of flipped labels, below 0.5.
    """
    names, of_each = [], []
    for name, weight in zip(losses, weights, strict=True):
        if name == "sigmoid":
            names += ["sigmoid", "robust"]
            of_each += [2 * (1 - share) * weight, -(1 - 2 * share) * weight]
        else:
            names.append(name)
            of_each.append(weight)
    return names, of_each
