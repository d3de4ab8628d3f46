"""A Trainer whose checkpoints are whole or absent, and whose resumed run ends where the uninterrupted one would.

Differs from the plain Trainer in these things, each found by resuming at every step and comparing bit for bit:
- checkpoints are written to a staging folder, sealed and renamed; nothing resumes without optimizer, scheduler and RNG
  state;
- training_args.bin, which contains the hub token in clear text, is never written;
- evaluation does not touch the random generators, so that its interval may change on resume (dropout after an
  evaluation therefore differs from a plain Trainer's);
- a checkpoint of a finished or early-stopped run resumes to its end instead of training one more step;
- callbacks always get their counters back; logging, saving and evaluation use the new intervals;
- an evaluation that was due at the checkpoint's step but did not happen any more is made up for on resume.

To end a run early, request a save and raise in `on_save`: after should_training_stop alone, the plain Trainer mistakes
the middle of an epoch for its end, and evaluates and saves once more.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import DefaultFlowCallback, ExportableState

from ftcli.core.errors import CheckpointError, ConfigError, Problem
from ftcli.runs.checkpoint_kind import ADAPTER_STATE, PROCESS_STATE, REFERENCE_STATE, TRAINER_STATE
from ftcli.runs.checkpoints import (
    checkpoint_path,
    newest_valid,
    seal,
    set_aside_newer,
    staging_path,
    step_of,
    sweep_staging,
    verify,
)
from ftcli.worker.distributed.exact_state import (
    RESUME_OLDER,
    Beside,
    adapter_tensors,
    host_rng,
    load_renamed,
    put_adapter_tensors,
    put_optimizer_dtypes,
    put_sampler_state,
    rng_untouched,
    sampler_state,
    set_host_rng,
    unloaded,
)
from ftcli.worker.models.answer_ends import save_ends
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import phase
from ftcli.worker.process.background_save import BackgroundSave
from ftcli.worker.process.free_space import require_space
from ftcli.worker.training.kept_checkpoints import KeptCheckpoints
from ftcli.worker.training.log_window import LastStep, put_window, window_of
from ftcli.worker.training.run_length import KnownLength, LengthChange, stopped_early
from ftcli.worker.tuners.support import Support


class SafeCheckpoints(KeptCheckpoints):
    """Mixin before a TRL trainer; `with_safe_checkpoints` puts it there.

    Checkpoints lie under `args.output_dir`, which should be RUN/checkpoints.
    """

    _staging: Path | None = None
    _resumed: Path | None = None
    _epoch_start: dict[str, Any] | None = None
    _rows: Any = None
    support = Support({})
    """The tuner's state between steps besides its tensors."""
    last_step = LastStep()
    """What a stop in the middle of a step saves in place of what that has changed."""
    background = BackgroundSave()
    """What writes checkpoints while training goes on, where the run wants that."""
    beside = Beside()
    """The trainer's state between steps besides model, optimizer and schedule."""
    length_changes: Sequence[LengthChange] = ()
    """How resumes changed the run's length (ftcli/worker/training/run_length.py)."""

    # --- starting and resuming -------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from a sealed checkpoint if one is given; True uses the newest valid one.

        Raises:
            CheckpointError: the checkpoint is damaged or incomplete.
            ConfigError: a setting rules out an exact resume.
        """
        root = Path(str(self.args.output_dir))
        self._refuse_inexact(resuming=bool(resume_from_checkpoint))
        self._resumed = self._checkpoint_to_resume(root, resume_from_checkpoint)
        self._epoch_start = None
        if self.is_world_process_zero():
            sweep_staging(root)
            if self._resumed is not None and self._resumed.resolve().parent == root.resolve():
                set_aside_newer(root, step_of(self._resumed) or 0)
        self.accelerator.wait_for_everyone()
        if self._resumed is None:
            return self._to_the_end(None, *args, **kwargs)
        eval_on_start, catch_up = self.args.eval_on_start, _CatchUp(self)
        # The first start already evaluated; a second evaluation would count towards early stopping.
        self.args.eval_on_start = False
        self.add_callback(catch_up)
        try:
            return self._to_the_end(str(self._resumed), *args, **kwargs)
        finally:
            self.remove_callback(catch_up)
            self.args.eval_on_start = eval_on_start

    def _to_the_end(self, checkpoint: str | None, *args: Any, **kwargs: Any) -> Any:
        """Train, and wait for a checkpoint that is still being written, however training ended."""
        try:
            return super().train(checkpoint, *args, **kwargs)
        finally:
            self.background.finish()

    def _refuse_inexact(self, resuming: bool) -> None:
        problems = []
        if resuming and self.args.ignore_data_skip:
            what = "would make the resumed run repeat rows that it has already seen"
            problems.append(Problem("train.ignore_data_skip", what, "remove it"))
        if self.args.dataloader_num_workers and self.args.dataloader_persistent_workers:
            what = "draws random numbers in its first epoch only, which is a different epoch in a resumed run"
            problems.append(Problem("train.dataloader_persistent_workers", what, "remove it"))
        if self.args.push_to_hub and self.args.hub_strategy != "end":
            what = f"{self.args.hub_strategy.value} would publish checkpoints while they are being written"
            problems.append(Problem("train.hub_strategy", what, "set it to end: only the finished model is pushed"))
        if getattr(self.args, "sync_ref_model", False) and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            what = "updates a sharded reference that no checkpoint holds, so the run could not be resumed"
            problems.append(Problem("method.sync_ref_model", what, "set it to false, or use one process or DDP"))
        if problems:
            raise ConfigError(*problems)

    def _checkpoint_to_resume(self, root: Path, requested: str | bool | None) -> Path | None:
        if not requested:
            return None
        if requested is True:
            path, damaged = newest_valid(root, self.needs)
            if path is None:
                why = "; ".join(str(one) for one in damaged) or "there is none"
                raise CheckpointError(Problem(str(root), f"no valid checkpoint: {why}", "start a new run with --from"))
            return path
        path = Path(requested)
        # Digests were compared when the checkpoint was chosen; checking sizes and names is cheap.
        reasons = verify(path, needs=self.needs, digests=False)
        if reasons:
            raise CheckpointError(*(Problem(str(path), reason, RESUME_OLDER) for reason in reasons))
        return path

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights exactly: adapters tensor by tensor, renamed weights with transformers' own loader."""
        if not self._put_adapter(Path(resume_from_checkpoint)):
            self._unloaded: list[str] = []
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self._load_rest(Path(resume_from_checkpoint))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self.background.finish()  # before the best checkpoint is loaded
        return super()._finalize_training(*args, **kwargs)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        if not self._put_adapter(best):
            self._unloaded = []
            super()._load_best_model()
            self._load_rest(best)
        self.beside.load(best)

    def _put_adapter(self, path: Path) -> bool:
        file = path / ADAPTER_STATE
        if not file.is_file():
            return False
        put_adapter_tensors(self._plain_model(), torch.load(file, map_location="cpu", weights_only=True), path)
        return True

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # The plain Trainer only warns about weights that it did not find.
        self._unloaded = unloaded(self._plain_model(), list(load_result.missing_keys))

    def _load_rest(self, path: Path) -> None:
        if self._unloaded:
            load_renamed(self._plain_model(), path)

    def _plain_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        put_optimizer_dtypes(optimizer, Path(checkpoint, "optimizer.pt"))
        if getattr(self.args, "sync_ref_model", False):
            saved = torch.load(Path(checkpoint, REFERENCE_STATE), map_location="cpu", weights_only=True)
            self.accelerator.unwrap_model(self._reference()).load_state_dict(saved)

    def _reference(self) -> Any:
        return cast(Any, self).ref_model

    def _load_callback_state(self) -> None:
        """Restore the callbacks' counters in place; the plain Trainer does so only if asked, and reorders callbacks."""
        saved = self.state.stateful_callbacks
        callbacks = [one for one in self.callback_handler.callbacks if isinstance(one, ExportableState)]
        for name in {type(one).__name__ for one in callbacks} & saved.keys():
            stored = saved[name] if isinstance(saved[name], list) else [saved[name]]
            same = [one for one in callbacks if type(one).__name__ == name]
            for callback, state in zip(same, stored, strict=False):
                for attribute, value in state.get("attributes", {}).items():
                    setattr(callback, attribute, value)
        self.state.stateful_callbacks = TrainerState(stateful_callbacks=[*callbacks, self.control]).stateful_callbacks
        assert self._resumed is not None
        self.find_best_again(self._resumed)

    # --- the loop --------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Restore the rest of the state, once all is loaded and before the first step."""
        assert self._resumed is not None
        # The checkpoint's intervals would override the requested ones.
        self.state.compute_steps(self.args, self.state.max_steps)
        self._kept = torch.load(self._own_file(self._resumed), weights_only=True)
        put_window(self, self._kept["window"])
        self.support.load_state(self._kept.get("tuner", {}))
        self.beside.load(self._resumed)
        self.beside.load_state(self._kept.get("beside", {}))
        if isinstance(self, KnownLength):
            changes = [LengthChange.of(each) for each in self._kept.get("length_changes", ())]
            self.note_length(self._resumed, changes)
        if self._owes_evaluation():
            metrics = self._evaluate(None, None)
            self._determine_best_metric(metrics=metrics, trial=None)
            self.name_best(self._resumed.parent)

    def _owes_evaluation(self) -> bool:
        """Whether an evaluation was due after the last step that the checkpoint does not contain."""
        flow, control = DefaultFlowCallback(), TrainerControl()
        flow.on_step_end(self.args, self.state, control)
        if float(self.state.epoch or 0).is_integer() or self._has_ended():
            flow.on_epoch_end(self.args, self.state, control)
        rows = [row for row in self.state.log_history if row.get("step") == self.state.global_step]
        return control.should_evaluate and not any(name.startswith("eval_") for row in rows for name in row)

    def _run_epoch(self, **kwargs: Any) -> None:
        """Enter an epoch as the uninterrupted run did, or leave at once if that had already ended."""
        self._rows = kwargs["train_dataloader"]
        if self._resumed is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
            if self._has_ended():
                self.control.should_training_stop = True
                return
            inside = kwargs["steps_trained_in_current_epoch"] > 0
            # The sampler draws the epoch's order again and needs the generators of the epoch's start; the Trainer
            # restores those of the step afterwards, when it has skipped the rows already seen.
            state = self._kept["epoch_start" if inside else "now"]
            set_host_rng(state)
            put_sampler_state(self._rows, state["sampler"])
        self._epoch_start = self._generators()
        super()._run_epoch(**kwargs)

    def _generators(self) -> dict[str, Any]:
        return {**host_rng(), "sampler": sampler_state(self._rows)}

    def _has_ended(self) -> bool:
        """Whether nothing is left to train: all steps done, or stopped early."""
        stopped = stopped_early(self.callback_handler.callbacks)
        return stopped or self.state.global_step >= self.state.max_steps

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate without advancing any random generator."""
        named = phase(f"evaluating at step {self.state.global_step}")
        with rng_untouched(), named, interruption.leavable(self.args.world_size == 1):
            return cast(dict[str, float], super().evaluate(*args, **kwargs))

    # --- saving ----------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the step's checkpoint to staging on all processes, then seal it on the first."""
        root = Path(super()._get_output_dir(trial))
        final = checkpoint_path(root, self.state.global_step)
        staging = staging_path(root, self.state.global_step)
        first = self.is_world_process_zero()
        if first:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        for states in self.state.stateful_callbacks.values():
            if isinstance(states, list):
                # The Trainer appends to it at every save, but reads the first entries back.
                states.clear()
        self.background.finish()
        size = self.checkpoint_bytes(root)
        require_space(self, root, size, "the next checkpoint")
        try:
            with self.background.taking(wanted=self.background.worth_it(size, self.args.device.type)):
                self._write_checkpoint(model, trial, staging, final)
            self._publish(staging, final)
        except Exception:  # as where the disk is full; after a kill the next start clears it
            if first:
                shutil.rmtree(staging, ignore_errors=True)
            raise

    def _write_checkpoint(self, model: Any, trial: Any, staging: Path, final: Path) -> None:
        self._staging = staging
        try:
            with self.nothing_removed(), phase(f"saving {final.name}"):
                super()._save_checkpoint(model, trial)
            self._save_exact_state(staging / final.name)
        finally:
            self._staging = None
        self.name_best(final.parent)

    def _publish(self, staging: Path, final: Path) -> None:
        def sealed_whole() -> None:
            seal(staging / final.name, final, self.needs)
            shutil.rmtree(staging)

        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            self.state.save_to_json(str(staging / final.name / TRAINER_STATE))
            clear = partial(shutil.rmtree, staging, ignore_errors=True)
            self.background.write(sealed_whole, partial(self.remove_surplus, final.parent), clear)
        self.accelerator.wait_for_everyone()

    def _save_exact_state(self, folder: Path) -> None:
        """Write what the Trainer leaves out: a file per process, the adapter as it is in memory, the reference."""
        state = {
            "epoch_start": self._epoch_start,
            "now": self._generators(),
            "window": window_of(self),
            "tuner": self.support.state(),
            "beside": self.beside.state(),
            "length_changes": [each.as_data() for each in self.length_changes],
            **self.last_step.instead(),
        }
        torch.save(state, self._own_file(folder))
        self.beside.save(folder)
        if not self.args.should_save or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        model = self._plain_model()
        if hasattr(model, "peft_config"):
            tensors = {name: tensor.detach() for name, tensor in adapter_tensors(model).items()}
            torch.save(tensors, folder / ADAPTER_STATE)
        if getattr(self.args, "sync_ref_model", False):
            torch.save(self.accelerator.unwrap_model(self._reference()).state_dict(), folder / REFERENCE_STATE)

    def save_last_step(self) -> None:
        """Write the checkpoint of the last whole step, out of the one that a stop has left in the middle."""
        self.last_step.put_back(self)
        self._save_checkpoint(self.model, None)

    def _own_file(self, folder: Path) -> Path:
        return folder / PROCESS_STATE.format(self.args.process_index)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with unpickled(self.args):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_ends(self._plain_model(), Path(str(output_dir or self.args.output_dir)))


class _CatchUp(TrainerCallback):
    """Calls the resumed trainer at the one point where everything is loaded and nothing is trained yet."""

    def __init__(self, trainer: SafeCheckpoints) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Let the trainer restore the rest."""
        self._trainer.catch_up()


@contextmanager
def unpickled(arguments: Any) -> Iterator[None]:
    """Keep torch.save from writing `arguments`: TrainingArguments contain the hub token in clear text."""
    save = torch.save

    def all_but_arguments(obj: Any, *args: Any, **kwargs: Any) -> None:
        if obj is not arguments:
            save(obj, *args, **kwargs)

    torch.save = all_but_arguments
    try:
        yield
    finally:
        torch.save = save


@cache
def with_safe_checkpoints(trainer_class: type[Trainer]) -> type[Trainer]:
    """The same trainer with safe checkpoints and exact resumes, under its own name."""
    return cast(type[Trainer], type(trainer_class.__name__, (SafeCheckpoints, trainer_class), {}))
