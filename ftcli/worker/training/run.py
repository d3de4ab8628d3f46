"""One run, from its spec to its result: load, measure, train, measure, save, and result.json last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data.ledger_text import ledger_lines
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST
from ftcli.runs.metrics import read_metrics
from ftcli.runs.model_card import CARD, model_card
from ftcli.runs.stop_signals import Stopped
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.distributed import restarts
from ftcli.worker.distributed.cpu_sharding import require_planned
from ftcli.worker.distributed.deepspeed_files import allow_plain_classes
from ftcli.worker.inference.trained_tokens import kept_rows
from ftcli.worker.measures.gate import Gate, judge
from ftcli.worker.models.load import weights_dtype
from ftcli.worker.models.unread_weights import switch_off
from ftcli.worker.process import interruption
from ftcli.worker.process.activity import kept_in, phase
from ftcli.worker.process.background_save import BackgroundSave
from ftcli.worker.process.environment import environment, went_on
from ftcli.worker.process.own_lines import say
from ftcli.worker.process.progress import Progress, mean_loss
from ftcli.worker.process.signals import StopCallback, exclusive
from ftcli.worker.process.step_beats import StepBeats
from ftcli.worker.process.usage import Pace, usage
from ftcli.worker.rewards.mixture import TOGETHER
from ftcli.worker.trackers.feed import Feed
from ftcli.worker.trainers.rl import vllm_engine
from ftcli.worker.trainers.units import Counted
from ftcli.worker.training.load import Loaded, load, load_base, make_critic, make_teacher
from ftcli.worker.training.log_window import LastStep
from ftcli.worker.training.measure import after_training, before_training, loss_before
from ftcli.worker.training.profiling.session import Profiled
from ftcli.worker.training.save import ADAPTER_CONFIG, save_final
from ftcli.worker.training.trainer import make_trainer
from ftcli.worker.training.watch.loss import LossGuard, LossWatch
from ftcli.worker.training.watch.rows import finder

_SEQUENCES = ("sequences", "trained_tokens")
_SHOWN = 2
"""Places shown per type of finding; ledger.json lists twenty."""


def train(run_dir: Path, resume: Path | None = None) -> dict[str, Any]:
    """Train the run whose spec.json is in `run_dir`.

    Args:
        resume: a sealed checkpoint of this run to resume from.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the spec cannot be run here, or the run is in use.
        DataError: unusable rows.
        NotFinite: a loss that is not a number.
        GateFailed: the run is whole, and lost more than its gate takes.
        InterruptedRun: stopped by a signal, in training after a checkpoint.
    """
    run_dir = run_dir.resolve()
    spec = RunSpec.load(run_dir / rundir.SPEC)
    resume = restarts.start_from(spec, run_dir, resume)
    # The lock is taken before accelerate starts, so the rank comes from the environment.
    alone = exclusive(run_dir, int(os.environ.get("RANK", "0")))
    with interruption.resumable(run_dir), alone, kept_in(run_dir), Profiled(spec, run_dir) as profiled:
        run = load(spec, run_dir, resumed=resume is not None)
        spec = run.spec  # with the attention kernel that it trains with
        _begin(run, resume)
        use_cache = run.model.config.use_cache
        trainer = build_trainer(run)
        profiled.watch(trainer)
        if resume is not None and spec.train.get("deepspeed"):
            allow_plain_classes()
        parameters = _parameters(trainer.model)  # counted now, as the model may be saved in another form
        before = before_training(run, trainer, resumed=resume is not None)
        gate = Gate(run, trainer).before(resumed=resume is not None)
        feed, pace = Feed(spec, run_dir), Pace()
        trainer.add_callback(pace)
        try:
            outcome = fit(run, trainer, resume, feed)
        finally:
            if run.is_first and spec.data.streaming:
                _report_ledger(run)
        trainer.require_finite_weights()
        run.support.settle(trainer, lambda: load_base(spec, run.method, placed=False))
        # Training disables the KV cache; a model saved that way would generate many times slower elsewhere.
        run.model.config.use_cache = use_cache
        stored = weights_dtype(spec.model.dtype, spec.launch.device) if spec.holds_masters else None
        with phase("saving the model"), interruption.finishing():
            # before it is measured, which may fail or be stopped
            save_final(trainer, run_dir / rundir.MODEL, stored)
        after = after_training(run, trainer)
        result = {**_result(run, trainer, outcome, before, after), **gate.after(), "parameters": parameters}
        machine = usage(spec, run.model, pace, run.config.device, run.attention)
        result |= {**_manifest(run), "machine": machine, **feed.noted(), **profiled.noted(trainer)}
        interruption.finish_first(True)  # as good as done: nothing would be left to resume
        if run.is_first:
            _keep(run, result)
        # A process that exits first would close the connections that the others still use.
        trainer.accelerator.wait_for_everyone()
        judge(result, run_dir)
        return result


def _keep(run: Loaded, result: dict[str, Any]) -> None:
    """Write the model's card, and the result last."""
    model = run.run_dir / rundir.MODEL
    card = model_card(run.spec, result, is_adapter=(model / ADAPTER_CONFIG).is_file())
    rundir.write_atomically(model / CARD, card)
    rundir.write_json(run.run_dir / rundir.RESULT, result)


def _begin(run: Loaded, resume: Path | None) -> None:
    """Compare a resumed run with what it began with, and write down what it computes with."""
    computed_with, changed = environment(run.spec, run.encoder.digests()), list[str]()
    if resume is not None:
        computed_with, changed = went_on(run.run_dir, computed_with, resume.name)
        require_same_sequences(run.run_dir, run.data.ledger(), streams=run.spec.data.streaming)
    if run.is_first:
        _report_ledger(run)
        if isinstance(run.data.train, Dataset):  # the rows of a stream are read once
            shown = [*kept_rows(run.data.train, run.tokenizer)]
            rundir.write_json(run.run_dir / rundir.SHOWN, {"schema": rundir.SCHEMAS[rundir.SHOWN], "rows": shown})
        for each in changed:
            say(f"note: the run {each}")
        rundir.write_json(run.run_dir / rundir.ENVIRONMENT, computed_with)


def _report_ledger(run: Loaded) -> None:
    """Write the row ledger to the run's folder and show it; for a stream, as far as it was read."""
    ledger = run.data.ledger()
    rundir.write_json(run.run_dir / rundir.LEDGER, ledger)
    if ledger["train"]["rows_read"]:
        say("\n".join(ledger_lines(ledger, shown=_SHOWN)))


def require_same_sequences(run_dir: Path, ledger: Mapping[str, Any], *, streams: bool) -> None:
    """Make sure that the rows of a resumed run still make the sequences that it began with.

    They do not where a later version of ftcli makes more or other ones of the same rows: a step would then have other
    rows than the checkpoint counts, and no single command could make that model again.

    Raises:
        ConfigError: there are more or fewer, or other tokens are trained.
    """
    try:
        whole = foreign_files.read_json(run_dir / rundir.LEDGER)
        rundir.require_known_schema(run_dir / rundir.LEDGER, whole)
        began = whole["train"]
        kept, now = ([each["train"][name] for name in _SEQUENCES] for each in ({"train": began}, ledger))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # it was stopped before it wrote one
        return
    if streams or kept == now:
        return
    what = f"began with {kept[0]} sequences and {kept[1]} trained tokens, and its rows now make {now[0]} and {now[1]}"
    if ledger["train"].get("unrolled", 0) != began.get("unrolled", 0):
        what += "; since it began, ftcli trains each turn that the chat template rewrites as an example of its own"
    again = shell_word(run_dir)
    fix = f"resume it with the version of ftcli that began it, or start a new run with ftcli train --from {again}"
    raise ConfigError(Problem(str(run_dir / rundir.LEDGER), what, fix))


def build_trainer(run: Loaded) -> Any:
    """The method's trainer around all that a run has loaded."""
    with phase("preparing the trainer"), vllm_engine.as_the_run(run.spec, run.config):
        trainer = make_trainer(
            run.method,
            run.config,
            run.model,
            run.tokenizer,
            train=run.data.train,
            held_out=run.data.held_out,
            reference=run.reference,
            peft=run.peft,
            support=run.support,
            warmup_from_zero=run.spec.warmup_from_zero,
            **_of_sampling(run),
        )
    trainer.needs = files_to_resume(run.spec)
    trainer.find_rows = finder(run.data.sets)
    if run.rewards is not None and run.score_batch is None:  # a model so small that its memory does not matter
        trainer.held_out_together = TOGETHER
    trainer.background = BackgroundSave(run.spec.run.background_save if run.config.world_size == 1 else False)
    switch_off()  # which accelerate has set for all models that are loaded from here on
    require_planned(run.spec, trainer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _of_sampling(run: Loaded) -> dict[str, Any]:
    """Further arguments of a trainer that trains on its own samples."""
    critic = {"critic": make_critic(run.spec, run.model)} if "value" in run.method.roles else {}
    teacher = {"teacher": make_teacher(run.spec, run.encoder)} if "teacher" in run.method.roles else {}
    return {**({"rewards": run.rewards} if run.rewards is not None else {}), **critic, **teacher}


def fit(run: Loaded, trainer: Any, resume: Path | None, feed: Feed | None = None) -> Any:
    """Train to the end, or to a stop; the outcome of `trainer.train`.

    Args:
        feed: the trackers, which are told what metrics.jsonl is told.
    """
    progress = Progress(run.run_dir, listener=feed)
    watch = [] if run.method.samples else [LossWatch(run.run_dir / rundir.METRICS)]  # whose losses spread around 0
    # In this order: a stop requests a save, a save requests a log, and the loss is checked before it is logged.
    preparing = ExitStack()
    stop = StopCallback(run.run_dir, preparing)
    for callback in (stop, LossGuard(), *watch, progress, StepBeats()):
        trainer.add_callback(callback)
    if run.method.samples and run.config.world_size == 1:
        trainer.last_step = LastStep(trainer)
        trainer.add_callback(trainer.last_step)
    patience = run.spec.run.early_stopping_patience
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    try:
        with phase("training", shown=False), preparing:
            preparing.enter_context(phase("preparing to train"))
            return trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except Stopped as stopped:  # in the middle of a step or an evaluation
        if not (interruption.is_finishing() and stop.has_stepped):
            raise  # before the end of a first step
        trainer.save_last_step()
        what = f"{stopped}; {trainer.state.global_step} steps are kept"
        raise interruption.interrupted(what, run.run_dir) from None
    finally:
        interruption.finish_first(False)
        progress.close()


def _result(run: Loaded, trainer: Any, outcome: Any, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    lines = read_metrics(run.run_dir / rundir.METRICS)
    losses = [line["loss"] for line in lines if "loss" in line]
    loss = mean_loss(lines)
    return {
        "schema": rundir.SCHEMAS[rundir.RESULT],
        "method": run.method.name,
        "model": run.spec.model.name_or_path,
        "peft": run.spec.peft.get("name", "none"),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_loss": outcome.training_loss if loss is None else loss,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        **({"derived": derived} if (derived := _derived(trainer)) else {}),
        "eval_loss": {"before": loss_before(run, trainer, before), "after": after.get("eval_loss")},
        "score": _scores(before.get("score") or {}, after.get("score") or {}),
        "tokens_trained": trainer.state.num_input_tokens_seen,
        **({"warnings": warnings} if (warnings := _warnings(trainer)) is not None else {}),
        **({"restarts": restarts.total(run.config)} if run.spec.launch.max_restarts else {}),
        **({"length_changes": [each.as_data() for each in changes]} if (changes := trainer.length_changes) else {}),
        "seconds": lines[-1]["elapsed_seconds"] if lines else 0.0,
        "model_dir": str(run.run_dir / rundir.MODEL),
        "ledger": run.data.ledger(),
    }


def _warnings(trainer: Any) -> list[dict[str, Any]] | None:
    """What was said of the rewards of sampled answers, or of a loss that misbehaved; None for nothing."""
    if (signal := getattr(trainer, "signal", None)) is not None:
        return list(signal.warnings)
    watches = [each for each in trainer.callback_handler.callbacks if isinstance(each, LossWatch)]
    return next((each.warnings for each in watches if each.warnings), None)


def _manifest(run: Loaded) -> dict[str, str]:
    """The digest of the final model's manifest; for the first process, whose result is written."""
    file = run.run_dir / rundir.MODEL / MANIFEST
    return {"model_manifest": sha256(file.read_bytes()).hexdigest()} if run.is_first else {}


def _derived(trainer: Any) -> dict[str, float]:
    return trainer.derived() if isinstance(trainer, Counted) else {}


def _scores(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any] | None:
    """The metric before and after; further metrics (the reward accuracy of pairs) under their own names, after only."""
    if not after:
        return None
    more = {name: value for name, value in after.items() if name not in ("name", "value", "rows")}
    measured = {"name": after["name"], "before": before.get("value"), "after": after["value"], "rows": after["rows"]}
    return {**measured, **more}


def _parameters(model: Any) -> dict[str, int]:
    """How many parameters there are, and how many of them train.

    Raises:
        ConfigError: none trains.
    """
    # bitsandbytes stores two 4-bit weights per element; under ZeRO-3 parameters are empty outside a step.
    sizes = [
        (getattr(p, "ds_numel", p.numel()) * (1 + (type(p).__name__ == "Params4bit")), p.requires_grad)
        for p in model.parameters()
    ]
    trainable = sum(size for size, grows in sizes if grows)
    if not trainable:
        what = "no parameter of the model would be trained"
        fix = "choose what trains: peft=lora, peft=none, or peft=freeze with peft.num_layers or peft.modules"
        raise ConfigError(Problem("peft", what, fix))
    return {"total": sum(size for size, _ in sizes), "trainable": trainable}
