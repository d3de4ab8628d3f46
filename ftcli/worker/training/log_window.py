"""The sums behind the next log line, so that a resumed run logs what the uninterrupted one would; and what else a step
that is left in its middle has changed."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from ftcli.worker.distributed.exact_state import set_host_rng
from ftcli.worker.trainers.rl.token_loss import TokenLoss
from ftcli.worker.training.unit_means import UnitMeans

_KEEPS = (UnitMeans, TokenLoss)


def window_of(trainer: Any) -> dict[str, Any]:
    """What a trainer has kept since its last log line."""
    gathered = {
        mode: {name: [float(value) for value in values] for name, values in metrics.items()}
        for mode, metrics in getattr(trainer, "_metrics", {}).items()
    }
    return {
        "loss": float(trainer._tr_loss),
        "logged_step": trainer._globalstep_last_logged,
        "metrics": gathered,
        "tokens": getattr(trainer, "_total_train_tokens", None),
        "pending": trainer.pending() if isinstance(trainer, _KEEPS) else {},
    }


def put_window(trainer: Any, window: dict[str, Any]) -> None:
    """Let a trainer go on from what another one had kept."""
    trainer._tr_loss += window["loss"]
    # train() returns the mean loss of this call's steps only.
    trainer._total_loss_scalar -= window["loss"]
    trainer._globalstep_last_logged = window["logged_step"]
    for mode, metrics in window["metrics"].items():
        trainer._metrics[mode].update(metrics)
    if window["tokens"] is not None:
        trainer._total_train_tokens = window["tokens"]
    if isinstance(trainer, _KEEPS):
        trainer.take_pending(window.get("pending", {}))  # checkpoints of earlier versions have none


class LastStep(TrainerCallback):
    """Keeps what a checkpoint of the last whole step needs, for a step that may be left while it samples answers.

    By then a step has drawn random numbers and counted tokens; weights, optimizer and schedule are as they were.
    """

    def __init__(self, trainer: Any = None) -> None:
        self._trainer = trainer
        self._kept: dict[str, Any] = {}
        self._inside = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the generators: the next epoch draws its order before its first step."""
        self._inside = False
        self._kept = {"now": self._trainer._generators(), "tokens": state.num_input_tokens_seen}
        if torch.cuda.is_available():
            self._kept["cuda"] = torch.cuda.get_rng_state_all()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keeps the sums since the last log line, which came after the end of the step before."""
        self._inside = bool(self._kept)
        if self._inside:
            self._kept |= {"window": window_of(self._trainer), "beside": self._trainer.beside.state()}

    def instead(self) -> dict[str, Any]:
        """What a checkpoint holds in place of the present state; nothing between two steps."""
        return {name: self._kept[name] for name in ("now", "window", "beside")} if self._inside else {}

    def put_back(self, trainer: Any) -> None:
        """Restore the generators and the count of tokens, which the plain Trainer saves itself."""
        if self._inside:
            set_host_rng(self._kept["now"])
            trainer.state.num_input_tokens_seen = self._kept["tokens"]
            if "cuda" in self._kept:
                torch.cuda.set_rng_state_all(self._kept["cuda"])
