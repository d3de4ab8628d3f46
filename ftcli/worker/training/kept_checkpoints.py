"""Which checkpoints a run keeps: its newest, its best, and as many more as `train.save_total_limit` leaves room for.

The plain Trainer removes checkpoints file by file, under their own names: a kill in between leaves a folder that looks
like a checkpoint and is none. With save_total_limit=1 it also removes, at the end of a run that loads its best
checkpoint, the newest one, so that resuming would repeat the steps since the best. Here it removes nothing; ours
(ftcli/runs/checkpoints.py) takes a checkpoint's name away first, in the first process only, while the others wait.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ftcli.core.errors import CheckpointError, Problem
from ftcli.runs.checkpoint_kind import TRAINER_STATE
from ftcli.runs.checkpoints import checkpoint_path, rotate, sealed, verify
from ftcli.worker.distributed.exact_state import adapter_tensors


class KeptCheckpoints(Trainer):
    """Mixin before a TRL trainer: knows the best checkpoint by its final folder, and keeps it and the newest."""

    needs: Sequence[str] = (TRAINER_STATE,)
    """The files that the run's checkpoints must have (ftcli/runs/checkpoint_kind.py)."""

    @contextmanager
    def nothing_removed(self) -> Iterator[None]:
        """Keep the plain Trainer from removing checkpoints."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield
        finally:
            self.args.save_total_limit = limit

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        with self.nothing_removed():
            return super()._finalize_training(*args, **kwargs)

    def checkpoint_bytes(self, root: Path) -> int:
        """About what the next checkpoint takes: as much as the last, or its tensors; 0 where these are sharded."""
        if before := sealed(root):
            return sum(path.stat().st_size for path in before[-1].rglob("*") if path.is_file())
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return 0
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        own = adapter_tensors(model) if hasattr(model, "peft_config") else model.state_dict()
        states: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        tensors = [each for state in states.state.values() for each in state.values() if torch.is_tensor(each)]
        copies = 2 if hasattr(model, "peft_config") else 1
        return int(copies * sum(each.nbytes for each in own.values()) + sum(each.nbytes for each in tensors))

    def remove_surplus(self, root: Path) -> None:
        """Remove what the limit leaves no room for; for one process, after a save and while the others wait."""
        best = self.state.best_model_checkpoint
        rotate(root, self.args.save_total_limit, Path(best) if best else None)

    def name_best(self, root: Path) -> None:
        """Name the best checkpoint by its final folder: the Trainer only knows the staging folder."""
        step = self.state.best_global_step
        if step and (step == self.state.global_step or checkpoint_path(root, step).is_dir()):
            self.state.best_model_checkpoint = str(checkpoint_path(root, step))

    def find_best_again(self, resumed: Path) -> None:
        """Point to the best checkpoint in this run's folder, wherever the run was when it was saved.

        Raises:
            CheckpointError: the run should end with its best checkpoint, but that is missing or damaged.
        """
        saved = json.loads((resumed / TRAINER_STATE).read_text(encoding="utf-8"))["best_model_checkpoint"]
        if saved is None:
            return
        best = resumed.parent / Path(saved).name
        faults = verify(best, needs=self.needs, digests=False)
        if faults and self.args.load_best_model_at_end:
            what = f"the best checkpoint, which the run should end with, is damaged: {'; '.join(faults)}"
            raise CheckpointError(Problem(str(best), what, "resume from before it: remove the checkpoints after it"))
        self.state.best_model_checkpoint = None if faults else str(best)
