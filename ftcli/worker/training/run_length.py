"""What becomes of a run's schedule when it is resumed with another number of steps.

The optimiser's state in a checkpoint carries the rates that the earlier schedule would have had next (0 where that had
ended), so they are set anew. Where the two schedules agree in the steps that are done, as constant ones do, the run
ends like one that was planned with this length; where they do not, no single command could make its model again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback
from transformers.optimization import get_scheduler

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs.checkpoint_kind import TRAINER_STATE
from ftcli.worker.process.own_lines import say
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


class Stretch(NamedTuple):
    """Steps that were trained while the run was to have the same number of steps."""

    first: int
    last: int
    planned: int


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
        if now < done:
            what = f"the run is to have {now} steps, and {done} are done"
            raise ConfigError(Problem(checkpoint, what, "give it more, or start a new run with --from"))
        if planned_steps(checkpoint) != now and isinstance(self.lr_scheduler, LambdaLR):
            put_rates(self.lr_scheduler, self.lr_scheduler.last_epoch)

    def note_length(self, checkpoint: Path, earlier: Sequence[LengthChange]) -> None:
        """Say and keep how this resume changes the length, once all is loaded; `earlier` are changes before it."""
        self.length_changes = earlier
        planned, now = planned_steps(checkpoint), self.state.max_steps
        if planned == now:
            return
        begins = [1, *(each.done + 1 for each in earlier)]
        ends = [*((each.done, each.planned) for each in earlier), (self.state.global_step, planned)]
        change = self._change([Stretch(first, *end) for first, end in zip(begins, ends, strict=True)], now)
        self.length_changes = [*earlier, change]
        if self.is_world_process_zero():
            say(change.note)

    def _change(self, stretches: Sequence[Stretch], now: int) -> LengthChange:
        done, planned = stretches[-1].last, stretches[-1].planned
        rate, last = float(self._get_learning_rate()), self._last_rate(stretches[-1])
        other = [each for each in stretches if not self._as_in_a_run_of(now, each)]
        tuner = next((text for each in stretches if (text := self.support.other_steps(*each, now)) is not None), None)
        same, ended = not other and tuner is None, stopped_early(self.callback_handler.callbacks)
        said = [self._until_now(other, done, now, last)]
        if ended:
            said.append("early stopping had ended the run there, and no step is trained after it")
        elif now > done:
            warmup = self.args.get_warmup_steps(now)
            until = f", whose warm-up ends with step {warmup}" if other and done < warmup else ""
            said.append(f"step {done + 1} goes on at {rate:.3g}, as in a run of {now} steps{until}")
        said += [tuner] if tuner else []
        equal = "ends like" if same else "is not the same as"
        return LengthChange(
            done=done,
            planned=planned,
            now=now,
            same=same,
            last_rate=last,
            next_rate=None if ended or now == done else rate,
            note=f"{planned} → {now} steps: {'; '.join(said)}. The run {equal} one of {now} steps from the start",
        )

    def _until_now(self, other: Sequence[Stretch], done: int, now: int, last: float) -> str:
        """How the steps that are done compare with a run of `now` steps, of which `other` differ."""
        kind = kind_of(self.args)
        if not other:
            return f"the {kind} schedule of {now} steps has the rates with which steps 1 to {done} were trained"
        if not isinstance(self.lr_scheduler, LambdaLR):
            return f"the {kind} schedule has counted the evaluation that ended step {other[-1].last} within an epoch"
        first, *others = (f"steps {each.first} to {each.last}" for each in other)
        said = f"{first} were trained by the {kind} schedule of {other[0].planned} steps"
        for text, each in zip(others, other[1:], strict=True):
            said += f", {text} by that of {each.planned}"
        return f"{said}, the last at {last:.3g}"

    def _as_in_a_run_of(self, now: int, stretch: Stretch) -> bool:
        """Whether the steps of a stretch had the rates that they have in a run of `now` steps."""
        if not isinstance(self.lr_scheduler, LambdaLR):
            return not self._measured_once_more(stretch.last)
        pairs = list(zip(self._factors(stretch.planned), self.lr_scheduler.lr_lambdas, strict=True))
        steps = [stretch.first - 1 + step for step in some_of(stretch.last - stretch.first + 1)]
        return all(earlier(step) == ours(step) for earlier, ours in pairs for step in steps)

    def _last_rate(self, stretch: Stretch) -> float:
        if not isinstance(self.lr_scheduler, LambdaLR):
            return float(self._get_learning_rate())
        return float(self.lr_scheduler.base_lrs[0] * self._factors(stretch.planned)[0](stretch.last - 1))

    def _measured_once_more(self, done: int) -> bool:
        """Whether a run that ended within an epoch was evaluated there, as a longer one would not have been."""
        rows = [row for row in self.state.log_history if row.get("step") == done and "eval_loss" in row]
        within = any(not float(row["epoch"]).is_integer() for row in rows)
        return within and self.args.eval_strategy == "epoch"

    def _factors(self, num_steps: int) -> Any:
        """The schedule of a run of `num_steps` steps, as a share of each parameter group's rate."""
        own, args = self.lr_scheduler, self.args
        groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in own.base_lrs]
        other = torch.optim.SGD(groups, lr=args.learning_rate)
        warmup = args.get_warmup_steps(num_steps)
        made = get_scheduler(args.lr_scheduler_type, other, warmup, num_steps, args.lr_scheduler_kwargs)
        return made.lr_lambdas if self.warmup_from_zero else with_ends_moved(made, warmup, num_steps).lr_lambdas


def planned_steps(checkpoint: str | Path) -> int:
    """The steps that a run was to have when it wrote a checkpoint."""
    return int(json.loads(Path(checkpoint, TRAINER_STATE).read_text(encoding="utf-8"))["max_steps"])


def stopped_early(callbacks: Sequence[Any]) -> bool:
    """Whether the patience of early stopping is used up."""
    return any(
        one.early_stopping_patience_counter >= one.early_stopping_patience
        for one in callbacks
        if isinstance(one, EarlyStoppingCallback)
    )
