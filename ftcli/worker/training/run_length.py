"""What becomes of a run's schedule when it is resumed with another number of steps.

The optimiser's state in a checkpoint carries the rates that the earlier schedule would have had next (0 where that had
ended), so they are set anew. Where the two schedules agree in the steps that are done, as constant ones do, the run
ends like one that was planned with this length; where they do not, no single command could make its model again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback
from transformers.optimization import get_scheduler

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs.checkpoints import TRAINER_STATE
from ftcli.worker.training.schedule import EveryStepTrains, kind_of, put_rates, some_of, with_ends_moved
from ftcli.worker.tuners.support import Support


@dataclass(frozen=True, kw_only=True)
class LengthChange:
    """A resume with another number of steps than before."""

    done: int
    """Steps that were trained until then."""
    planned: int
    """Steps that the run was to have until then."""
    now: int
    """Steps that it has since."""
    same: bool
    """Whether the schedule for `now` steps is the earlier one in all steps that were done."""
    last_rate: float
    """The learning rate of the last step that was done."""
    next_rate: float | None
    """The learning rate of the first step after it; None if none is left."""
    note: str
    """All of this in words."""

    def as_data(self) -> dict[str, Any]:
        """As it is kept in checkpoints and in result.json."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> LengthChange:
        """What `as_data` returned."""
        return cls(**data)


class KnownLength(EveryStepTrains):
    """Mixin before a TRL trainer: resumed with another number of steps, it trains with the rates of that number."""

    support = Support({})
    length_changes: Sequence[LengthChange] = ()
    """How resumes changed the run's length, this one last."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As its parent, and then the rates of the schedule for the steps that the run has now.

        Raises:
            ConfigError: more steps are done than the run is to have.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        done, now = self.state.global_step, self.state.max_steps
        planned = json.loads(Path(checkpoint, TRAINER_STATE).read_text(encoding="utf-8"))["max_steps"]
        if now < done:
            what = f"the run is to have {now} steps, and {done} are done"
            raise ConfigError(Problem(checkpoint, what, "give it more, or start a new run with --from"))
        if planned == now:
            return
        if isinstance(self.lr_scheduler, LambdaLR):
            put_rates(self.lr_scheduler, self.lr_scheduler.last_epoch)
        change = self._change(done, planned, now)
        self.length_changes = [change]
        if self.is_world_process_zero():
            sys.stderr.write(f"{change.note}\n")

    def _change(self, done: int, planned: int, now: int) -> LengthChange:
        scheduler, kind = self.lr_scheduler, kind_of(self.args)
        same, rate = True, float(self._get_learning_rate())
        last = rate
        if isinstance(scheduler, LambdaLR):
            pairs = list(zip(self._factors(planned), scheduler.lr_lambdas, strict=True))
            same = all(earlier(step) == ours(step) for earlier, ours in pairs for step in some_of(done))
            last = scheduler.base_lrs[0] * pairs[0][0](done - 1)
        tuner = self.support.other_steps(done, planned, now)
        if same:
            note = f"the {kind} schedule of {now} steps has the rates with which steps 1 to {done} were trained"
        else:
            note = f"steps 1 to {done} were trained by the {kind} schedule of {planned} steps, the last at {last:.3g}"
        ended = now == done or stopped_early(self.callback_handler.callbacks)
        if ended and now > done:
            note += "; early stopping had ended the run there, and no step is trained after it"
        elif not ended:
            note += f"; step {done + 1} goes on at {rate:.3g}, as in a run of {now} steps"
            warmup = self.args.get_warmup_steps(now)
            note += f", whose warm-up ends with step {warmup}" if not same and done < warmup else ""
        same = same and tuner is None
        note += f"; {tuner}" if tuner else ""
        equal = "ends like" if same else "is not the same as"
        note += f". The run {equal} one of {now} steps from the start"
        return LengthChange(
            done=done,
            planned=planned,
            now=now,
            same=same,
            last_rate=last,
            next_rate=None if ended else rate,
            note=f"{planned} → {now} steps: {note}",
        )

    def _factors(self, num_steps: int) -> Any:
        """The schedule of a run of `num_steps` steps, as a share of each parameter group's rate."""
        own, args = self.lr_scheduler, self.args
        groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in own.base_lrs]
        # Some schedules also read the rate that the optimiser was made with.
        other = torch.optim.SGD(groups, lr=own.optimizer.defaults["lr"])
        warmup = args.get_warmup_steps(num_steps)
        made = get_scheduler(args.lr_scheduler_type, other, warmup, num_steps, args.lr_scheduler_kwargs)
        return made.lr_lambdas if self.warmup_from_zero else with_ends_moved(made, warmup, num_steps).lr_lambdas


def stopped_early(callbacks: Sequence[Any]) -> bool:
    """Whether the patience of early stopping is used up."""
    return any(
        one.early_stopping_patience_counter >= one.early_stopping_patience
        for one in callbacks
        if isinstance(one, EarlyStoppingCallback)
    )
