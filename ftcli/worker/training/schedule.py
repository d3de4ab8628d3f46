"""The learning rate of each step, so that no step at either end of a schedule trains at rate 0.

The warm-ups of transformers rise from 0, so the first step changes nothing, and a run of one step nothing at all. Here
a warm-up of w steps rises from 1/w of the rate (the value of its second step moved to its first) and reaches the whole
rate with its last step. A decay that would arrive at 0 exactly in the last step starts one step later, so that it
arrives there after it. All other values are those of transformers, for every schedule that it offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from ftcli.core.errors import ConfigError, Problem

Factor = Callable[[int], float]
"""The share of the learning rate at a step, counted from 0."""
_KWARGS = "train.lr_scheduler_kwargs"
_NOTHING = 1e-12
"""A share below which a rate is 0 but for rounding, as that of a cosine at its lowest point."""


class EveryStepTrains(Trainer):
    """Mixin before a TRL trainer: no step is spent on the rate 0, and no held-out row is left out."""

    warmup_from_zero = False

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of `train.lr_scheduler_type`, its ends moved as above."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            create = super().create_scheduler
            with rate_known(optimizer or self.optimizer, self.args.learning_rate):
                self.lr_scheduler = trained_schedule(
                    lambda: create(num_training_steps, optimizer),
                    self.args,
                    num_training_steps,
                    warmup_from_zero=self.warmup_from_zero,
                )
        return self.lr_scheduler

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """As its parent, but `dataloader_drop_last` drops training rows only: every held-out row is measured."""
        drops = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drops and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops


@contextmanager
def rate_known(optimizer: Any, rate: float) -> Iterator[None]:
    """Give an optimiser the rate that it was made with, which schedules with a lowest rate read.

    LoRA+'s optimiser is made with a rate a group, and has its class's; DeepSpeed's wrapper has none to read.
    """
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    own = getattr(inner, "defaults", None)
    inner.defaults = {**(own or {}), "lr": rate}
    try:
        yield
    finally:
        if own is None:
            del inner.defaults
        else:
            inner.defaults = own


def trained_schedule(make: Callable[[], Any], args: Any, num_steps: int, *, warmup_from_zero: bool) -> Any:
    """The schedule that `make` returns, its ends moved as above.

    Args:
        args: the trainer's config.
        num_steps: optimiser steps of the run.
        warmup_from_zero: leave the schedule as transformers has it, as runs of ftcli 0.1 were trained.

    Raises:
        ConfigError: transformers refuses the schedule's settings, or steps would have the rate 0.
    """
    kind = kind_of(args)
    try:
        scheduler = make()
        if not isinstance(scheduler, LambdaLR):  # it follows a metric, and starts at the whole rate
            return scheduler
        if not warmup_from_zero:
            with_ends_moved(scheduler, args.get_warmup_steps(num_steps), num_steps)
        looked_at = some_of(num_steps)
        idle = [step + 1 for step in looked_at if not any(rate > 0 for rate in rates_at(scheduler, step))]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        what = f"train.lr_scheduler_type={kind} cannot be computed with these settings: {error}"
        fix = f"change {_KWARGS}, or choose train.lr_scheduler_type=cosine"
        raise ConfigError(Problem(_KWARGS, what, fix)) from None
    if len(idle) == len(looked_at):
        what = f"train.lr_scheduler_type={kind} gives every one of the {num_steps} steps the learning rate 0"
        fix = f"raise train.max_steps or train.num_train_epochs, or lower train.warmup_steps or change {_KWARGS}"
        raise ConfigError(Problem("train.lr_scheduler_type", what, fix))
    if idle and not warmup_from_zero:
        steps = f"step {idle[0]}" if len(idle) == 1 else f"steps between {idle[0]} and {idle[-1]}"
        what = f"train.lr_scheduler_type={kind} gives {steps} of {num_steps} the rate 0: their rows change nothing"
        fix = f"change {_KWARGS} so that the schedule reaches to the last step"
        fix += f", or train {idle[0] - 1} steps" if idle[0] > 1 else ""
        raise ConfigError(Problem(_KWARGS, what, fix))
    return scheduler


def kind_of(args: Any) -> str:
    """The name of a config's schedule."""
    return str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))


def some_of(num_steps: int) -> range:
    """All steps, or of a very long run a hundred thousand of them: a schedule is smooth, and each costs a call."""
    return range(0, num_steps, max(1, num_steps // 100_000))


def rates_at(scheduler: LambdaLR, step: int) -> list[float]:
    """The learning rate of each parameter group at a step, counted from 0."""
    return [rate * factor(step) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]


def moved(factor: Factor, warmup: int, num_steps: int) -> Factor:
    """A schedule without rate 0 at its first and its last step, nor at a single step between them.

    Args:
        factor: the schedule of transformers; every one reaches 1 at the end of its warm-up.
        warmup: steps of the warm-up.
    """
    rises = warmup > 0 and factor(0) == 0
    last = num_steps - 1
    falls = last >= warmup and factor(last) == 0 and (last == warmup or factor(last - 1) > 0)

    def between(step: int) -> float:
        share = factor(step)
        if share < _NOTHING and warmup < step < last:
            around = min(factor(step - 1), factor(step + 1))
            return around if around > _NOTHING else share
        return share

    def share(step: int) -> float:
        if rises and step < warmup:
            return factor(step + 1) if step + 1 < warmup else 1.0
        if falls and warmup <= step <= last:
            return between(step - 1) if step > warmup else 1.0
        try:
            return between(step)
        except ZeroDivisionError:
            # After the last step, a polynomial decay divides by the steps after the warm-up, of which there are none.
            if step < num_steps:
                raise
            return 0.0

    return share


def with_ends_moved(scheduler: LambdaLR, warmup: int, num_steps: int) -> LambdaLR:
    """A new schedule with its ends moved as above, and its optimiser with the rates of the first step."""
    scheduler.lr_lambdas = [moved(each, warmup, num_steps) for each in scheduler.lr_lambdas]
    put_rates(scheduler, 0)
    return scheduler


def put_rates(scheduler: LambdaLR, step: int) -> None:
    """Give the optimiser the rates that its schedule has at a step, counted from 0."""
    rates = rates_at(scheduler, step)
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):  # as some optimisers hold it, for graphs that read it in place
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = rates
