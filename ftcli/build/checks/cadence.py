"""When a run warms up, logs, evaluates, saves and stops: a cadence is whole, and has the rows that it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ftcli.build.checks.data import usable_rows
from ftcli.build.checks.field_needs import layer_of
from ftcli.build.derive import has_validation
from ftcli.config.compose import WRITERS, Composed
from ftcli.core.errors import ConfigError, Problem
from ftcli.evaluations.retention import GENERAL, gate_problems, read_set
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.fields.field_row import HELD_OUT
from ftcli.settings.limits import WITHOUT_WARMUP

Where = Callable[[str], str]


def problems(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The problems of a run's cadence."""
    yield from _whole_steps(run, where)
    yield from _warmup(run, composed, where)
    yield from _validation(run, composed, where)
    yield from _background(run, where)
    yield from _profile(run, where)
    yield from _steps(run, where)
    yield from _retention(run, where)


def _whole_steps(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """A cadence is a whole number of steps, or below 1 a share of the run."""
    for key in ("logging_steps", "save_steps", "eval_steps", "warmup_steps"):
        value = run.spec.train.get(key)
        if isinstance(value, float) and value >= 1 and not value.is_integer():
            what = f"train.{key}={value} is neither a whole number of steps nor a share below 1"
            yield Problem(where(f"train.{key}"), what, f"set it to {int(value)}, or to a share such as 0.1")


def _warmup(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """Some schedules have no warm-up, and would ignore one that was set."""
    train, kind = run.spec.train, run.spec.train.get("lr_scheduler_type")
    written = composed.origin("train", "warmup_steps").by != "group"
    if kind in WITHOUT_WARMUP and written and train.get("warmup_steps"):
        what = f"train.warmup_steps has no effect with train.lr_scheduler_type={kind}"
        fix = "remove it" + (", or choose constant_with_warmup" if kind == "constant" else "")
        yield Problem(where("train.warmup_steps"), what, fix)


def _loss_before(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The held-out loss of the starting model is measured once, where there is one."""
    if not _written(composed, "run.loss_before"):
        return
    if run.method.rewarded and run.spec.run.loss_before:
        what = f"method={run.method.name} is measured by its rewards: its loss on newly sampled answers says nothing"
        yield Problem(where("run.loss_before"), what, "remove it; run.score_rows measures the rewards before and after")
    elif run.spec.train.get("eval_on_start"):
        what = "run.loss_before has no effect with train.eval_on_start=true, which measures the same at step 0"
        yield Problem(where("run.loss_before"), what, "remove one of them")


def _validation(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """Evaluation, the best checkpoint and early stopping need held-out rows, and each other."""
    spec, train = run.spec, run.spec.train
    if spec.data.eval_path is not None and spec.data.eval_share > 0:
        yield Problem(where("data.eval_share"), "data.eval_path and data.eval_share are both set", "keep one")
    held_out = has_validation(spec.data, run.method)
    yield from _loss_before(run, composed, where)
    fix = "add data.eval_path=FILE or data.eval_share=0.05"
    if not held_out:
        if train.get("load_best_model_at_end"):
            what = "train.load_best_model_at_end needs held-out rows"
            yield Problem(where("train.load_best_model_at_end"), what, fix)
        if _written(composed, "run.score_rows") and spec.run.score_rows:
            yield Problem(where("run.score_rows"), "run.score_rows scores held-out rows, and there are none", fix)
        if _written(composed, "run.loss_before") and spec.run.loss_before:
            yield Problem(where("run.loss_before"), "run.loss_before needs held-out rows", fix)
        if train.get("eval_strategy") not in (None, "no"):
            yield Problem(where("train.eval_strategy"), "train.eval_strategy needs held-out rows", fix)
        if train.get("save_strategy") == "best":
            yield Problem(where("train.save_strategy"), "train.save_strategy=best needs held-out rows", fix)
    elif train.get("load_best_model_at_end") and train.get("save_strategy") != "best":
        if train.get("save_strategy") != train.get("eval_strategy"):
            what = "train.load_best_model_at_end needs an evaluation at each save"
            fix = f"set train.eval_strategy={train.get('save_strategy')}"
            yield Problem(where("train.load_best_model_at_end"), what, fix)
        elif train.get("eval_strategy") == "steps" and not _multiple(train.get("save_steps"), train.get("eval_steps")):
            saves, evaluations = train.get("save_steps"), train.get("eval_steps")
            what = f"train.save_steps={saves} is not a multiple of train.eval_steps={evaluations}"
            yield Problem(
                where("train.save_steps"),
                what,
                "make it one: train.load_best_model_at_end needs an evaluation at each save",
            )
    if spec.run.early_stopping_patience is not None and not train.get("load_best_model_at_end"):
        what = "run.early_stopping_patience needs the best checkpoint, which is not tracked"
        yield Problem(where("run.early_stopping_patience"), what, "add train.load_best_model_at_end=true")


def _background(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """Checkpoints in the background are those of one process, and there must be some."""
    if not run.spec.run.background_save:
        return
    what = "run.background_save=true writes the checkpoints of one process"
    if run.spec.launch.num_processes > 1:
        why = f"{what}, and this run has {run.spec.launch.num_processes}, which write theirs together"
        yield Problem(where("run.background_save"), why, "remove it")
    elif run.spec.train.get("save_strategy") == "no":
        yield Problem(where("run.background_save"), f"{what}, and this run saves none", "remove it, or save some")


def _profile(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """Steps are traced in a run that is profiled, and there are as many."""
    steps, most = run.spec.run.profile_steps, run.spec.train.get("max_steps")
    if steps is None:
        return
    if not run.spec.run.profile:
        what = "run.profile_steps has no effect without run.profile"
        yield Problem(where("run.profile_steps"), what, "add run.profile=true, or remove it")
    elif type(most) is int and 0 < most < steps:
        what = f"run.profile_steps={steps} traces more steps than the {most} of the run"
        yield Problem(where("run.profile_steps"), what, f"set it to {most} or fewer")


def _written(composed: Composed, dotted: str) -> bool:
    """Whether a recipe or the command line set a value that a later layer's choice of data did not overtake."""
    layer = composed.layer(*dotted.split("."))
    return layer >= max(WRITERS.index("recipe"), layer_of(composed, HELD_OUT))


def _multiple(saves: Any, evaluations: Any) -> bool:
    if not saves or not evaluations or saves < 1 or evaluations < 1:
        return True
    return bool(saves % evaluations == 0)


def _steps(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """Rows that fill no batch are dropped by `train.dataloader_drop_last`; no more of them are read than fill one."""
    spec, need = run.spec, run.batch.rows_per_pass
    uncountable = spec.data.streaming or spec.data.mix is not None or spec.data.overflow == "split"
    if not spec.train.get("dataloader_drop_last") or uncountable or spec.data.eval_group or run.method.steps_per_epoch:
        return
    share = spec.data.eval_share
    enough = math.ceil(need / (1 - share)) + 1
    rows = usable_rows(spec.data, run.method, enough)
    if rows is None or rows >= enough:
        return
    left = rows - min(max(1, round(share * rows)), rows - 1) if share else rows
    try:
        run.method.epoch_steps({**spec.method, "packing": False}, spec.train, run.batch, left)
    except ConfigError as error:
        [found] = error.problems
        yield Problem(where(found.where), f"{found.where} {found.what}", found.fix)


def _retention(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """What a run shall keep is in a set that can be read, and a gate names what is measured there."""
    own = run.spec.run
    if own.retention is None and own.gate is None:
        return
    if run.method.head == "reward_model":
        name = "run.retention" if own.gate is None else "run.gate"
        yield Problem(where(name), f"{name} has no effect: a reward model gives no answers", "remove it")
        return
    kinds: tuple[str, ...] = ()
    try:
        kinds = read_set(own.retention or GENERAL).kinds
    except ConfigError as error:
        yield from (
            replace(each, where=where("run.retention")) if each.where == "run.retention" else each
            for each in error.problems
        )
        return
    if own.gate is not None:
        yield from gate_problems(own.gate, kinds, where("run.gate"))
