"""Early ends of a run by signals, and the lock that keeps two processes from sharing a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from ftcli.runs import rundir
from ftcli.runs.stop_signals import Stopped
from ftcli.worker.process import activity, interruption


class StopCallback(TrainerCallback):
    """Ends training at the end of a step, after a checkpoint, once a signal arrived in any process."""

    def __init__(self, run_dir: Path, preparing: ExitStack) -> None:
        """
        Args:
            preparing: what is around the preparations, and ends with the first step.
        """
        self._run_dir, self._preparing, self._stopping = run_dir, preparing, False
        self.has_stepped = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on a step is finished, and its checkpoint written, before the run stops."""
        self._preparing.close()
        interruption.finish_first(True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Requests a checkpoint if a signal arrived here or in another process."""
        self.has_stepped = True
        if arrived(args):
            self._stopping = True
            control.should_save = True
            # An evaluation may take longer than the sender of the signal waits. It is made up for on resume.
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves the training loop, in all processes at once, also for a signal that arrived since the step."""
        if self._stopping or arrived(args):
            name = interruption.name() or "another process"
            raise interruption.interrupted(f"{Stopped(name)} after step {state.global_step}", self._run_dir)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Nothing is left that a stop would wait for."""
        interruption.finish_first(False)


def arrived(args: Any) -> bool:
    """Whether a signal arrived in any process; every process asks at the same points."""
    here = bool(interruption.name())
    if args.world_size == 1:
        return here
    anywhere = torch.tensor(int(here), device=args.device)
    distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
    return bool(anywhere.item())


class EvaluationCount(TrainerCallback):
    """Counts the batches of an evaluation: the Trainer's own bar is switched off."""

    _done = 0

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Counts one, and stops there, in training in all processes at once."""
        self._done += 1
        if interruption.is_finishing() and args.world_size > 1 and arrived(args):
            raise Stopped(interruption.name() or "another process", activity.text())
        total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
        interruption.reached(self._done, total, "batches")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins again with the next evaluation."""
        self._done = 0

    on_predict = on_evaluate


@contextmanager
def exclusive(run_dir: Path, rank: int) -> Iterator[None]:
    """Hold the run's lock; only the first process of a run takes it.

    Raises:
        ConfigError: another process holds it.
    """
    if rank:
        yield
        return
    with rundir.at_work(run_dir):
        yield
