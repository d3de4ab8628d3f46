"""KTO's reference point for held-out rows, over all of them at once.

The point is a mean over mismatched answers (Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1). Taken over a batch,
it would make the held-out loss depend on the size of the batches. Here each sequence is paired with the answer of the
one before it in the whole set, the divergence of these pairs is measured first, and the losses then with its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from ftcli.worker.trainers.units import Counted

SIDES = {"chosen_ids": "chosen_kl_ids", "rejected_ids": "rejected_kl_ids"}
"""Answers of a row, good ones first, and the column of those that they are paired with."""


def with_mismatched(rows: Dataset) -> Dataset:
    """The rows with the answer of the sequence before each of theirs, all good answers before all bad ones."""
    answers = {side: [list(ids) for ids in rows[side]] for side in SIDES}
    filled = [(side, index) for side in SIDES for index, ids in enumerate(answers[side]) if ids]
    before: dict[str, list[list[int]]] = {side: [[]] * len(rows) for side in SIDES}
    for (side, index), (other, at) in zip(filled, [filled[-1], *filled], strict=False):
        before[side][index] = answers[other][at]
    return rows.add_column(SIDES["chosen_ids"], before["chosen_ids"]).add_column(
        SIDES["rejected_ids"], before["rejected_ids"]
    )


class HeldOutReference(Counted):
    """Mixin before TRL's KTO trainer."""

    calculate_KL: bool
    ref_model: Any
    _point: float | None = None
    _logps: Iterator[Tensor]

    def needs_first_look(self) -> bool:
        """As its parent: if the loss has a reference point."""
        return self.calculate_KL

    def take_first_look(self, mean: float) -> None:
        """As its parent: the mean divergence is the point, where it is positive."""
        self._point = max(0.0, mean)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As its parent; the point is only that of this evaluation."""
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self._point = None

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """As its parent; at first look the mean divergence of the batch's mismatched answers, in nats."""
        if self.looks_first:
            return self._divergence(model, inputs)
        if self._point is not None:  # TRL subtracts what it computes of the reference from what it does of the policy
            point = torch.tensor([self._point], device=self.accelerator.device)
            self._logps = iter((point, torch.zeros_like(point)))
        return super()._compute_loss(model, inputs, return_outputs)  # type: ignore[misc]

    def _compute_kl_logps(self, model: Any, batch: Mapping[str, Any]) -> Any:
        if self._point is not None:
            return next(self._logps)
        return super()._compute_kl_logps(model, batch)  # type: ignore[misc]

    def _divergence(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        own = self._compute_kl_logps(model, inputs).double()
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if self.ref_model is not None:
                return (own - self._compute_kl_logps(self.ref_model, inputs).double()).mean()
            base = self.accelerator.unwrap_model(self.model)
            with use_adapter(base, adapter_name="ref" if "ref" in base.peft_config else None):
                return (own - self._compute_kl_logps(self.model, inputs).double()).mean()
