"""The sums behind the next log line, so that a resumed run logs what the uninterrupted one would."""

from __future__ import annotations

from typing import Any

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
