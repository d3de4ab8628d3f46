"""Hangs the clock on the calls of a trainer, of torch's collectives and of the import system, and takes it off again.

Only the objects of the run that is profiled are changed: a run without a profile makes no call more than before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from ftcli.runs.profiles.time_parts import (
    BACKWARD,
    DATA,
    EVALUATE,
    FORWARD,
    GENERATION,
    IMPORT,
    LOAD,
    LOG,
    OPTIMISER,
    PREPARE,
    REWARDS,
    SAVE,
    SCORING,
    TOKENISE,
    TRAINING,
    WAIT,
)
from ftcli.runs.worker_records import kind
from ftcli.worker.training.profiling.recorder import Recorder

PHASES: Mapping[str, str] = MappingProxyType({
    "preparing rows": TOKENISE,
    "loading the rewards": LOAD,
    "timing attention kernels": PREPARE,
    "loading the model": LOAD,
    "loading the reference": LOAD,
    "preparing the trainer": PREPARE,
    "preparing to train": PREPARE,
    "training": TRAINING,
    "saving the model": SAVE,
    "measuring before training": EVALUATE,
    "measuring after training": EVALUATE,
    "measuring what shall be kept": EVALUATE,
    "measuring what was kept": EVALUATE,
    "closing the trackers": LOG,
})  # fmt: skip
"""The phases of a worker that are parts; the others lie within calls of METHODS."""

METHODS: Mapping[str, str] = MappingProxyType({
    "compute_loss": FORWARD,
    "_clip_grad_norm": OPTIMISER,
    "_get_grad_norm": OPTIMISER,
    "answerer": GENERATION,  # of PPO
    "_generate_single_turn": GENERATION,  # of GRPO, RLOO and distillation
    "_scored": REWARDS,  # of PPO
    "_calculate_rewards": REWARDS,  # of GRPO and RLOO
    "_per_token": SCORING,  # of PPO
    "evaluate": EVALUATE,
    "evaluation_loop": EVALUATE,
    "_save_checkpoint": SAVE,
    "log": LOG,
})  # fmt: skip
"""The calls of a trainer that are parts, of those that it has."""

COLLECTIVES = (
    *("barrier", "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast"),
    *("broadcast_object_list", "gather", "gather_object", "reduce", "scatter"),
)
"""Functions of torch.distributed in which a process waits for the others."""
_SCORES = frozenset({FORWARD, DATA, TRAINING})
"""In these parts a pass of a model without gradients is one of its own kind, as that of a reference."""


class PhaseParts:
    """Counts the phases of the worker as parts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._open: list[tuple[str, int]] = []

    def begins(self, name: str) -> None:
        """Begin its part, if it is one."""
        if (part := PHASES.get(kind(name))) is not None:
            self._open.append((name, self._recorder.depth))
            self._recorder.begin(part)

    def ends(self, name: str, seconds: float) -> None:
        """End its part, and what an error left within it."""
        while any(each == name for each, _ in self._open):
            ended, depth = self._open.pop()
            self._recorder.end(depth)
            if ended == name:
                return


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute for a while."""
    own = vars(owner)
    before, had = own.get(name), name in own
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def timing_libraries(recorder: Recorder) -> Iterator[None]:
    """Count what is imported by name as importing, as transformers and TRL do at first use; and waits for others."""
    imports = importlib.import_module

    @functools.wraps(imports)
    def import_module(name: str, package: str | None = None) -> Any:
        whole = importlib.util.resolve_name(name, package) if name.startswith(".") else name
        if whole in sys.modules:
            return imports(name, package)
        with recorder.part(IMPORT):
            return imports(name, package)

    importlib.import_module = import_module  # type: ignore[assignment]
    known = [name for name in COLLECTIVES if hasattr(distributed, name)]
    plain = {name: getattr(distributed, name) for name in known}
    for name, function in plain.items():
        setattr(distributed, name, recorder.timed(WAIT, function))
    try:
        yield
    finally:
        importlib.import_module = imports
        for name, function in plain.items():
            setattr(distributed, name, function)


@contextmanager
def timing_trainer(trainer: Any, recorder: Recorder) -> Iterator[None]:
    """Count the calls of a trainer as the parts that they are, until the block ends."""
    with ExitStack() as stack:
        for name, part in METHODS.items():
            if (method := getattr(trainer, name, None)) is not None:
                stack.enter_context(replaced(trainer, name, recorder.timed(part, method)))
        read = recorder.timed(DATA, trainer.get_batch_samples)

        def of_next_step(*args: Any, **kwargs: Any) -> Any:
            recorder.step = trainer.state.global_step + 1
            return read(*args, **kwargs)

        stack.enter_context(replaced(trainer, "get_batch_samples", of_next_step))
        accelerator = trainer.accelerator
        backward = recorder.timed(BACKWARD, accelerator.backward)

        def together(loss: Any, *args: Any, **kwargs: Any) -> Any:
            # Else who waits for a slower process would seem to take long for its gradients.
            if trainer.args.world_size > 1 and accelerator.sync_gradients:
                distributed.barrier()
            return backward(loss, *args, **kwargs)

        stack.enter_context(replaced(accelerator, "backward", together))
        for model in (trainer.model, getattr(trainer, "ref_model", None)):
            # In a compiled model the hook would be compiled too, and make it another one.
            if model is not None and not trainer.args.torch_compile:
                stack.enter_context(_timing_passes(accelerator.unwrap_model(model), recorder))
        optimiser = _OptimiserSteps(trainer, recorder)
        trainer.add_callback(optimiser)
        stack.callback(trainer.remove_callback, optimiser)
        yield


@contextmanager
def _timing_passes(model: torch.nn.Module, recorder: Recorder) -> Iterator[None]:
    """Count passes of a model without gradients, within others, as scoring."""
    depths: list[int | None] = []

    def begins(*_: Any) -> None:
        scores = not torch.is_grad_enabled() and recorder.now in _SCORES
        depths.append(recorder.depth if scores else None)
        if scores:
            recorder.begin(SCORING)

    def ends(*_: Any) -> None:
        if depths and (depth := depths.pop()) is not None:
            recorder.end(depth)

    hooks = (model.register_forward_pre_hook(begins), model.register_forward_hook(ends, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _OptimiserSteps(TrainerCallback):
    """Counts the steps of the optimiser, which there is only when training begins."""

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        self._trainer, self._recorder = trainer, recorder

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Hang the clock on it."""
        own = self._trainer
        own.optimizer.step = self._recorder.timed(OPTIMISER, own.optimizer.step)
