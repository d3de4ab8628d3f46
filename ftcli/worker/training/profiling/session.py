"""The profile of a run from the import of its libraries to its result, however it ends."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import TrainerCallback

from ftcli.runs.profiles.profile_file import (
    OPERATIONS,
    TRACE,
    ProcessProfile,
    as_data,
    forget,
    name_of,
    read_profiles,
    write_profile,
)
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.process import deferred_imports
from ftcli.worker.process.activity import heard_by
from ftcli.worker.training.profiling.hooks import PhaseParts, timing_libraries, timing_trainer
from ftcli.worker.training.profiling.recorder import Recorder
from ftcli.worker.training.profiling.trace import Operations, write_spans


class Profiled:
    """Around a run; of one without `run.profile` it does nothing."""

    def __init__(self, spec: RunSpec, run_dir: Path) -> None:
        self._spec, self._run_dir = spec, run_dir
        self._rank, self._processes = (int(os.environ.get(*each)) for each in (("RANK", "0"), ("WORLD_SIZE", "1")))
        self._recorder: Recorder | None = None
        self._hooks = ExitStack()
        self._steps = _Steps(self)
        self._operations: Operations | None = None

    def __enter__(self) -> Profiled:
        if self._spec.run.profile:
            self._recorder = Recorder(deferred_imports.seconds, settle=_settled)
            if self._rank == 0:
                forget(self._run_dir)
            self._hooks.enter_context(heard_by(PhaseParts(self._recorder)))
            self._hooks.enter_context(timing_libraries(self._recorder))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.close()
        if self._recorder is not None:
            with suppress(OSError):  # the run's own end is what counts
                self._write()

    def watch(self, trainer: Any) -> None:
        """Time a trainer from here on."""
        if self._recorder is None:
            return
        self._hooks.enter_context(timing_trainer(trainer, self._recorder))
        trainer.add_callback(self._steps)
        if self._spec.run.profile_steps and self._rank == 0:
            file = self._run_dir / OPERATIONS
            self._operations = Operations(self._recorder, file, self._spec.run.profile_steps)
            trainer.add_callback(self._operations)

    def begins(self, step: int) -> None:
        """Take note that training begins after this step."""
        assert self._recorder is not None
        self._steps.first = self._recorder.step = step

    def passed(self, step: int) -> None:
        """Take note that this step is over."""
        self._steps.done = step - self._steps.first

    def keep(self) -> None:
        """Write what is known, without the trace, for who looks at a run at work or at one that was killed."""
        assert self._recorder is not None
        with suppress(OSError):
            write_profile(self._run_dir, self._so_far())

    def noted(self, trainer: Any) -> dict[str, Any]:
        """What result.json says of it; every process of the run must call this."""
        if self._recorder is None:
            return {}
        self._write()
        trainer.accelerator.wait_for_everyone()
        self._recorder = None
        return as_data(read_profiles(self._run_dir))

    def _so_far(self) -> ProcessProfile:
        assert self._recorder is not None
        parts = self._recorder.parts()
        return ProcessProfile(
            rank=self._rank,
            processes=self._processes,
            from_step=self._steps.first,
            steps=self._steps.done,
            seconds=round(sum(each.seconds for each in parts.values()), 6),
            parts=parts,
        )

    def _write(self) -> None:
        assert self._recorder is not None
        if self._operations is not None:
            self._operations.close()
        write_profile(self._run_dir, self._so_far())
        write_spans(self._run_dir / name_of(TRACE, self._rank), self._recorder, self._rank)


class _Steps(TrainerCallback):
    """Counts the steps of a session."""

    def __init__(self, profiled: Profiled) -> None:
        self._profiled = profiled
        self.first = self.done = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on."""
        self._profiled.begins(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more."""
        self._profiled.passed(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what is known beside the checkpoint."""
        self._profiled.keep()


def _settled() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
