"""The logged loss of a trainer whose steps have different numbers of tokens, as the mean over all since the last line.

transformers logs the mean of the steps' losses, in which the tokens of a step of short answers weigh more than others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TokenLoss:
    """Mixin before a trainer that learns from its own answers."""

    _sum: Any = 0.0
    """Of this process: each step's loss times its number of tokens, and all these."""
    _number = 0.0

    def tokens_of_step(self) -> float | None:
        """The answer tokens of the step that is trained, of all processes; None if its loss is no mean over tokens."""
        raise NotImplementedError

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As its parent; keeps the loss."""
        own: Any = self
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        tokens = self.tokens_of_step()
        if tokens is not None:
            # The losses of a step's batches sum up to its mean, in the mean of all processes.
            self._sum = self._sum + loss.detach() * tokens
            self._number += tokens if own.accelerator.sync_gradients else 0.0
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As its parent, with the mean over tokens and their number."""
        own: Any = self
        if "loss" in logs and self._number:
            total = torch.as_tensor(self._sum, dtype=torch.float32, device=own.accelerator.device)
            logs["loss"] = float(own.accelerator.reduce(total, "mean")) / self._number
            logs["loss_over"] = round(self._number, 6)
            self._sum, self._number = 0.0, 0.0
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def pending(self) -> Any:
        """What is kept for the next log line, for a checkpoint."""
        return {"sum": float(self._sum), "number": self._number}

    def take_pending(self, kept: Any) -> None:
        """Go on with what a checkpoint has kept."""
        if kept:
            self._sum, self._number = kept["sum"], kept["number"]
