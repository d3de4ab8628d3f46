"""What is logged of a run: metrics that are not finite end it, a loss that leaps or stays at 0 is said."""

from __future__ import annotations

import math
import re
import statistics
from collections import deque
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ftcli.core.errors import NotFinite, Problem
from ftcli.runs.metrics import read_metrics
from ftcli.worker.process.activity import say_above

GUARDED = re.compile(r"(^|_)loss$|grad_norm|reward|margin|logp|(^|/)kl|value")
"""Metrics that must be finite. Others may not be for good reasons, as a spread over one answer."""
_SPREAD = re.compile(r"std|over$")
WINDOW, LEAST = 1000, 16
"""Logged losses that a new one is compared with, and the fewest that it is."""
SPIKE = 7.0
"""Standard deviations above the window from which a loss counts as a spike, as OLMo 2 counts them (2024,
arXiv:2501.00656, section 3); they are estimated from the median, which the spikes themselves do not move."""
_OF_DEVIATION = 1.4826
"""The standard deviation of normal values, over their median absolute deviation."""
_LEAST_SHARE = 0.1
"""A loss that is higher by less than this share is no spike, however even those before it were."""
ZEROS = 3
"""Logged losses of 0 without a gradient, one after the other, until it is said that nothing is learned."""

_FIX = {
    "zero_loss": "ftcli data preview shows which tokens are trained",
    "loss_spike": "where it does not come back, lower train.learning_rate, or train.max_grad_norm",
}


class LossGuard(TrainerCallback):
    """Ends a run whose metrics are not finite, before they are written down or choose a checkpoint."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Checks what is logged.

        Raises:
            NotFinite: a metric that must be finite is not.
        """
        for name, value in (logs or {}).items():
            if not isinstance(value, float) or math.isfinite(value):
                continue
            # With fp16 an overflowing gradient is normal: the scaler skips the step.
            if GUARDED.search(name) and not _SPREAD.search(name) and not (args.fp16 and name == "grad_norm"):
                what = f"{name} became {value}; the last checkpoint is kept"
                fix = "lower train.learning_rate, or look for broken rows"
                raise NotFinite(Problem(f"step {state.global_step}", what, fix))


class LossWatch(TrainerCallback):
    """Says once of each spike of the loss, and of a loss that stays at 0."""

    def __init__(self, metrics: Path) -> None:
        self.warnings: list[dict[str, Any]] = []
        self._metrics = metrics
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._zeros = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Takes the losses of a run that is resumed."""
        for line in read_metrics(self._metrics) if state.global_step else ():
            if line["step"] <= state.global_step and "loss" in line:
                self._take(line["loss"], line.get("grad_norm"), line["step"])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Looks at the loss of a line."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        for begun in self._take(logs["loss"], logs.get("grad_norm"), state.global_step):
            say_above(f"warning: step {begun['first_step']}: {begun['message']}\n  fix: {begun['fix']}")

    def _take(self, loss: float, grad_norm: float | None, step: int) -> list[dict[str, Any]]:
        """Record what begins and ends with a logged loss; returns what begins."""
        self._zeros = self._zeros + 1 if loss == 0 and not grad_norm else 0
        now = {}
        if self._zeros >= ZEROS:
            now["zero_loss"] = f"the loss is 0, without a gradient, for {ZEROS} logged steps: nothing is learned"
        if (usual := self._leapt_from(loss)) is not None:
            now["loss_spike"] = f"the loss leapt to {loss:.4g}, more than {SPIKE:g} deviations above {usual:.4g}"
        self._losses.append(loss)
        lasting = {each["name"]: each for each in self.warnings if each["last_step"] is None}
        for name in lasting.keys() - now.keys():
            lasting[name]["last_step"] = step
        begun = [
            {"name": name, "first_step": step, "last_step": None, "message": message, "fix": _FIX[name], "done": False}
            for name, message in now.items()
            if name not in lasting
        ]
        self.warnings += begun
        return begun

    def _leapt_from(self, loss: float) -> float | None:
        """The usual loss, where this one is far above it; None where it is not."""
        if len(self._losses) < LEAST:
            return None
        usual = statistics.median(self._losses)
        spread = _OF_DEVIATION * statistics.median(abs(each - usual) for each in self._losses)
        return usual if loss > usual + max(SPIKE * spread, _LEAST_SHARE * abs(usual)) else None
