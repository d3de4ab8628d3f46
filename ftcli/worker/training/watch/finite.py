"""A step that is not finite ends the run before the optimiser sees it, with the rows that it was computed from.

Looked at are the loss of every batch, also of held-out ones, the norm of every step's gradient, and the trained weights
before they are saved, whatever the run logs. With fp16 an infinite gradient is normal: the scaler skips the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import torch
from transformers import Trainer

from ftcli.core.errors import NotFinite, Problem
from ftcli.worker.training.watch.rows import Find, finder

_KEPT = "the last checkpoint is kept"


class FiniteSteps(Trainer):
    """Mixin before a trainer."""

    find_rows: Find = staticmethod(finder(()))
    """Names the rows of batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._computed: list[Any] = []
        """The batches of the step so far."""
        super().__init__(*args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As its parent.

        Raises:
            NotFinite: its loss is not finite.
        """
        self._computed.append(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        self._require_finite("loss", loss, [inputs])
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As its parent; DeepSpeed's backward pass updates the weights, so its loss is looked at before."""
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if self.is_deepspeed_enabled and self.model.training:
            self._require_finite("loss", found[0] if isinstance(found, tuple) else found, [inputs])
        return found

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As its parent, of every step and before its update."""
        found = super()._get_grad_norm(model, grad_norm)
        if found is not None and not self.args.fp16:
            self._require_finite("the norm of the gradient", found, self._computed)
        self._computed.clear()
        return found

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As its parent.

        Raises:
            NotFinite: the held-out loss is not finite.
        """
        found = super().prediction_step(model, inputs, *args, **kwargs)
        if found[0] is not None:
            self._require_finite("held-out loss", found[0], [inputs], step=self.state.global_step)
        return found

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As its parent, but broken weights are neither measured nor saved."""
        if self.control.should_save or self.control.should_evaluate:
            self.require_finite_weights()
        return super()._maybe_log_save_evaluate(*args, **kwargs)

    def require_finite_weights(self) -> None:
        """Check the weights that are trained, as far as this process holds them.

        Raises:
            NotFinite: one of them is not finite.
        """
        if not all_finite(self._trained()):
            self._stop_for_weights(self.state.global_step)

    def _trained(self) -> list[torch.Tensor]:
        optimizer = getattr(self, "optimizer", None)
        held = [each for group in optimizer.param_groups for each in group["params"]] if optimizer is not None else []
        own = [each for each in self.model.parameters() if each.requires_grad]
        return list({id(each): each for each in (*own, *held)}.values())

    def _require_finite(self, name: str, value: Any, batches: Sequence[Any], *, step: int | None = None) -> None:
        number = float(value)
        if math.isfinite(number):
            return
        at = self.state.global_step + 1 if step is None else step
        if not all_finite(self._trained()):
            self._stop_for_weights(at - (step is None))
        what = f"{name} became {number}, computed from {self.find_rows(batches, self.processing_class)}; {_KEPT}"
        raise NotFinite(Problem(f"step {at}", what, "look at these rows, or lower train.learning_rate"))

    def _stop_for_weights(self, step: int) -> NoReturn:
        what = f"the update made weights that are not finite; {_KEPT}"
        raise NotFinite(Problem(f"step {step}", what, "lower train.learning_rate"))


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers in the tensors are finite; of sharded ones, in the shards of this process."""
    found = [each.detach().isfinite().all() for tensor in tensors if (each := _local(tensor)).is_floating_point()]
    return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]
