"""What a trainer's losses and metrics are means over: tokens, pairs or answers, and how many of them a batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import Trainer

Units = dict[str, Any]
"""Names of units, each with its number in a batch: a number or a tensor of no dimension."""
REPEATED = "repeated"
"""Key of a batch that only keeps a process in step with the others, and counts nowhere."""
LOWEST, HIGHEST = "lowest", "highest"


class Counted(Trainer):
    """A trainer whose losses and metrics are means, and which says over what.

    Each value that it computes of a batch is a mean over the batch; `worker/training/unit_means.py` makes one mean of
    those of several batches, by the numbers that `units` gives.
    """

    loss_unit: ClassVar[str]
    """Of `units`, what the loss is a mean over."""
    metric_units: ClassVar[Mapping[str, str | tuple[str, str]]] = {}
    """The same for metrics, by the names that the trainer logs; all others are means over `loss_unit`. With LOWEST or
    HIGHEST before the unit, a metric is the lowest or highest value of all batches that have any of the unit."""
    divides_its_loss: ClassVar[bool] = False
    """Whether it calls `part` for each term of its loss, as the terms are means over different units."""

    rows_stand_alone: ClassVar[bool] = True
    """Whether the loss of a row is the same beside whichever others it is computed: then they are dealt by length."""

    looks_first = False
    """In an evaluation, whether the loss of a batch is what `take_first_look` wants the mean of."""

    def derived(self) -> dict[str, float]:
        """Settings of the method that it derived from the rows it trains on, which a later evaluation needs."""
        return {}

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """The numbers of all its units in a batch; always the same names."""
        raise NotImplementedError

    def units_of_step(self, inputs: Mapping[str, Any]) -> Units:
        """The numbers of the whole step, where they are not the sums of its batches as they were read."""
        return {}

    def is_part(self, num_items_in_batch: Any) -> bool:
        """Whether its loss of a training batch is already the batch's part of the mean over the step."""
        return False

    def mean_weight(self) -> float:
        """The mean weight of the step's units, if `loss_unit` counts them without their weights."""
        return 1.0

    def part(self, mean: Any, unit: str) -> Any:
        """What a term of the loss, a mean over the units of this batch, adds to the mean over all batches."""
        return mean

    def needs_first_look(self) -> bool:
        """Whether the held-out loss depends on a mean over all held-out rows, which is taken before."""
        return False

    def take_first_look(self, mean: float) -> None:
        """Note that mean."""

    def keep_rows(self, name: str, values: Tensor) -> None:
        """Keep values of a held-out batch, one a row, for `loss_of_rows`."""

    def loss_of_rows(self, kept: Mapping[str, Tensor]) -> float:
        """The part of the held-out loss that is no mean of rows, of the values kept of all held-out rows."""
        return 0.0

    def completed(self, means: dict[str, float]) -> dict[str, float]:
        """The means with those that follow from others."""
        return means


OF_PAIRS = {
    "entropy": "tokens",
    "mean_token_accuracy": "chosen_tokens",
    "logits/chosen": "chosen_tokens",
    "logits/rejected": "rejected_tokens",
}
"""The units of the metrics of TRL's DPO trainer that are no means over pairs."""


def pair_units(inputs: Mapping[str, Any]) -> Units:
    """The units of a batch of B pairs, with `completion_mask` of B chosen and then B rejected sequences."""
    mask: Tensor = inputs["completion_mask"][:, 1:]
    chosen, rejected = (side.sum() for side in mask.chunk(2))
    return {
        "pairs": len(mask) // 2,
        "tokens": chosen + rejected,
        "chosen_tokens": chosen,
        "rejected_tokens": rejected,
    }
