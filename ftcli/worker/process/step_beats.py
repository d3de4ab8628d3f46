"""The beats of a process while it trains: at each step, each pass in it, and each batch that it measures."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ftcli.worker.process import heartbeat


class StepBeats(TrainerCallback):
    """Tells the front half where the training loop is."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins."""
        heartbeat.step_begins(state.global_step + 1)

    def _passes(self, *_: Any, **__: Any) -> None:
        """Something in it is done."""
        heartbeat.passes()

    on_substep_end = on_pre_optimizer_step = on_optimizer_step = on_step_end = on_prediction_step = _passes
