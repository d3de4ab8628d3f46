"""Held-out loss and metric of a run's model, before and after training, and on request."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback
from trl.trainer.utils import use_adapter

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted.foreign_files import read_object
from ftcli.runs import rundir
from ftcli.worker.distributed.sharded import whole_model
from ftcli.worker.inference import metrics
from ftcli.worker.inference.kept_answers import KeptAnswers
from ftcli.worker.process.activity import phase
from ftcli.worker.training.load import Loaded
from ftcli.worker.tuners.residual import REFERENCE

BEFORE = "before.json"
"""The measurement before training; a resumed run reads it instead of measuring a half-trained model."""


def before_training(run: Loaded, trainer: Any, resumed: bool) -> dict[str, Any]:
    """Held-out loss (`run.loss_before`) and metric (`run.score_rows`) of the starting model; {} if not requested.

    Restores every random state: training is bit for bit the same with or without it.
    """
    path = run.run_dir / BEFORE
    kept = _kept(path)
    if resumed:
        return kept
    scored, with_loss = bool(run.spec.run.score_rows), _with_loss(run)
    if run.data.held_out is None or not (scored or with_loss):
        return {}
    measured, several = kept, run.config.world_size > 1
    if scored and not kept:  # which a run has that was stopped before its first checkpoint
        with phase("measuring before training"):
            measured = measure(run, trainer, with_loss=with_loss and not several, answers="before")
        if run.is_first:
            rundir.write_json(path, measured)
    if with_loss and measured.get("eval_loss") is None:
        trainer.add_callback(_LossBefore(run, trainer, measured))
    return measured


def _kept(file: Path) -> dict[str, Any]:
    """What an earlier session of the run measured; {} where there was none.

    Raises:
        ConfigError: the file was damaged.
    """
    fix = "remove it; the run then goes on without what was measured before training"
    found = read_object(file, fix)
    loss, score = found.get("eval_loss"), found.get("score") or {}
    if not (loss is None or isinstance(loss, int | float)) or not isinstance(score, dict):
        raise ConfigError(Problem(str(file), "is damaged", fix))
    return found


def _with_loss(run: Loaded) -> bool:
    """Whether the held-out loss is measured before training, and not by the trainer itself."""
    wanted = run.spec.run.loss_before
    if wanted is None:  # in a run of a version without this setting
        wanted = bool(run.spec.run.score_rows)
    return wanted and not run.config.eval_on_start and not run.method.rewarded


def loss_before(run: Loaded, trainer: Any, measured: dict[str, Any]) -> float | None:
    """The held-out loss of the starting model, as `before_training` or train.eval_on_start measured it."""
    loss: float | None = measured.get("eval_loss")
    if loss is None and not run.method.rewarded:
        logs = (log for log in trainer.state.log_history if log["step"] == 0)
        loss = next((log["eval_loss"] for log in logs if "eval_loss" in log), None)
    return loss


class _LossBefore(TrainerCallback):
    """Measures the held-out loss when training begins: with several processes, and where nothing else is measured.

    Not earlier: once accelerate has prepared a model for evaluation, it does not prepare it again for training. Several
    processes would then each train alone, without summing their gradients, and nothing could be sharded any more.
    """

    def __init__(self, run: Loaded, trainer: Any, measured: dict[str, Any]) -> None:
        self._run, self._trainer, self._measured = run, trainer, measured

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Measure, and leave no trace in the logs of later evaluations."""
        own = self._trainer
        with metrics.undisturbed():
            rows = own.get_eval_dataloader()
            found = own.evaluation_loop(rows, "Evaluation", prediction_loss_only=True, metric_key_prefix="eval")
        self._measured["eval_loss"] = found.metrics["eval_loss"]
        getattr(own, "_metrics", {}).get("eval", {}).clear()
        if self._run.is_first:
            rundir.write_json(self._run.run_dir / BEFORE, self._measured)


def after_training(run: Loaded, trainer: Any) -> dict[str, Any]:
    """Held-out loss and metric of the trained model, or of the best checkpoint if that is kept; {} without rows."""
    if run.data.held_out is None:
        return {}
    last: dict[str, Any] = next((log for log in reversed(trainer.state.log_history) if "eval_loss" in log), {})
    fresh = last.get("step") == trainer.state.global_step and not run.config.load_best_model_at_end
    loss = last["eval_loss"] if fresh else None
    with phase("measuring after training"):
        return measure(run, trainer, loss, answers="after")


def measure(
    run: Loaded, trainer: Any, loss: float | None = None, *, with_loss: bool = True, answers: str = ""
) -> dict[str, Any]:
    """The trainer's held-out loss (unless given or excluded) and the method's metric, as {"eval_loss", "score"}.

    Args:
        answers: the name under which some of the model's answers are kept in the run's folder; "" keeps none.
    """
    kept = KeptAnswers(run.encoder) if answers and run.is_first else None
    with metrics.undisturbed():
        if loss is None and with_loss and not run.method.rewarded:  # a loss on newly sampled answers means nothing
            loss = trainer.evaluate()["eval_loss"]
        measured = {"eval_loss": loss, "score": _score(run, trainer, kept)}
    if kept is not None and kept.rows:
        _write(run.run_dir / rundir.ANSWERS, answers, kept.rows)
    return measured


def _write(file: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write answers beside those that the run has kept under another name."""
    others: dict[str, Any] = {}
    with contextlib.suppress(ConfigError):  # answers that are lost are no reason to stop
        others = read_object(file, "")
    rundir.write_json(file, {"schema": rundir.SCHEMAS[rundir.ANSWERS], **others, name: rows})


def _score(run: Loaded, trainer: Any, kept: KeptAnswers | None) -> dict[str, Any]:
    if not run.data.score_examples or run.method.score == "none":
        return {}
    mine = run.data.score_examples[run.config.process_index :: run.config.world_size]
    with whole_model(trainer, trainer.model_wrapped) as model, trainer.compute_loss_context_manager():
        counts = metrics.count_hits(
            run.method,
            model,
            run.encoder,
            mine,
            reference=_reference(run, trainer, model),
            max_length_tokens=run.max_length_tokens,
            rewarded=run.rewarded,
            kept=kept,
            **({"batch_size": run.score_batch} if run.score_batch else {}),
        )
    return metrics.shares(summed(counts, run.config.world_size))


def _reference(run: Loaded, trainer: Any, model: Any) -> Any:
    if "reference" not in run.method.roles:
        return None
    held = getattr(trainer, "ref_model", None)
    if held is not None or not hasattr(model, "peft_config"):
        return held  # None if its log-probabilities were precomputed, which was done for the training rows only
    return use_adapter(model, REFERENCE if REFERENCE in model.peft_config else None)


def summed(counts: metrics.Counts, world_size: int) -> metrics.Counts:
    """The counts of all processes together. Each must call this, also one that had no row and so counts nothing:
    without it the others would wait for half an hour."""
    if world_size == 1:
        return counts
    parts: list[metrics.Counts] = [{}] * world_size
    distributed.all_gather_object(parts, counts)
    names = dict.fromkeys(name for part in parts for name in part)
    given = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: (sum(hits for hits, _ in each), sum(rows for _, rows in each)) for name, each in given.items()}
