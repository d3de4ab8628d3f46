"""Rules that the trainers apply at their first use of a setting: when their config is made, or steps later.

What TrainingArguments and TRL's configs refuse in `__post_init__` is refused here too, with the place and a remedy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ftcli.build.checks import field_needs, generation, hardware_rules, mappings, optimisers
from ftcli.build.checks.field_needs import current
from ftcli.build.derive import has_validation
from ftcli.config.compose import Composed
from ftcli.core.errors import Problem
from ftcli.core.gpu_cards import CARDS, card
from ftcli.core.suggest import suggest
from ftcli.launch import profile
from ftcli.methods import Method
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.library_fields import fields_of, source_text
from ftcli.settings.library_values import metric_names

Where = Callable[[str], str]
_MEASURED = ("loss", "runtime", "samples_per_second", "steps_per_second")
"""What the Trainer itself reports of an evaluation."""
_BY_LENGTH = ("group_by_length", "batch_rebalance")


def problems(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The problems of a run's `train` and `method` settings that its trainer would find."""
    yield from field_needs.problems(run, composed)
    yield from optimisers.problems(run, where)
    yield from mappings.problems(run, where)
    yield from hardware_rules.problems(run, composed, where)
    yield from _best(run, composed, where)
    yield from _evaluation(run, where)
    yield from _publishing(run, where)
    yield from _devices(run, composed, where)
    yield from _rows(run, where)
    yield from generation.problems(run, where)
    yield from _router(run, where)
    if run.method.samples:
        yield from _groups(run, where)


def metrics_of(method: Method) -> tuple[str, ...]:
    """The held-out metrics that a method's trainer reports; `{…}` stands for what a run decides."""
    if method.reports:
        return method.reports
    text = source_text(method.trainer.partition(":")[0])
    modules = dict.fromkeys(re.findall(r"\btrl\.trainer(?:\.| import )(\w+_trainer)\b", text))
    found = [name for each in modules for name in metric_names(f"trl.trainer.{each}")]
    # The loss of a router is left out of held-out losses: it is no mean over rows.
    return tuple(name for name in dict.fromkeys([*_MEASURED, *found]) if name != "aux_loss" or not method.loss_over)


def _best(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The best checkpoint is chosen by a metric that is measured, and reported under that name."""
    metric, keeps = current(run, "train.metric_for_best_model"), current(run, "train.save_strategy") == "best"
    loads = bool(current(run, "train.load_best_model_at_end"))
    follows = current(run, "train.lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")
    if keeps and metric is None and not loads and not follows:
        what = "train.save_strategy=best has no metric by which a checkpoint is the best"
        yield Problem(where("train.save_strategy"), what, "add train.metric_for_best_model=loss")
    if keeps and current(run, "train.eval_strategy") == "no" and has_validation(run.spec.data, run.method):
        what = "train.save_strategy=best saves after an evaluation, and train.eval_strategy=no makes none"
        yield Problem(where("train.save_strategy"), what, "set train.eval_strategy=epoch")
    for key in ("metric_for_best_model", "greater_is_better"):
        written = run.spec.train.get(key) is not None and composed.origin("train", key).by != "group"
        if written and not (keeps or loads or follows):
            what = f"train.{key} has no effect: no checkpoint is chosen by a metric"
            yield Problem(where(f"train.{key}"), what, "add train.load_best_model_at_end=true, or remove it")
    if run.spec.train.get("metric_for_best_model") is not None:
        name = str(metric).removeprefix("eval_")
        known = metrics_of(run.method)
        if not any(re.fullmatch(re.sub(r"\\\{.*?\\\}", ".+", re.escape(each)), name) for each in known):
            what = f"nothing reports the metric {name}, which train.metric_for_best_model names"
            yield Problem(where("train.metric_for_best_model"), what, suggest(name, known, ""))


def _evaluation(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    saves, evaluates = current(run, "train.save_steps"), current(run, "train.eval_steps")
    both = current(run, "train.eval_strategy") == current(run, "train.save_strategy") == "steps"
    if both and current(run, "train.load_best_model_at_end") and isinstance(evaluates, (int, float)):
        if (saves < 1) != (evaluates < 1):
            what = f"train.save_steps={saves} and train.eval_steps={evaluates} mix a share of the run with steps"
            fix = "give both as steps or both as shares: train.load_best_model_at_end evaluates at each save"
            yield Problem(where("train.save_steps"), what, fix)
        elif saves < 1 and round(saves * 10**6) % max(1, round(evaluates * 10**6)):
            what = f"train.save_steps={saves} is not a multiple of train.eval_steps={evaluates}"
            fix = "make it one: train.load_best_model_at_end needs an evaluation at each save"
            yield Problem(where("train.save_steps"), what, fix)


def _publishing(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    strategy = current(run, "train.hub_strategy")
    if run.spec.train.get("push_to_hub") and strategy != "end":
        what = f"train.hub_strategy={strategy} would publish checkpoints while they are being written"
        yield Problem(where("train.push_to_hub"), what, "add train.hub_strategy=end: only the finished model is pushed")


def _devices(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    train, launch = run.spec.train, run.spec.launch
    cards = profile.cards(launch)
    if run.spec.hardware.gpu is not None:
        yield from _named_card(run.spec.hardware.gpu, launch.device, where("hardware.gpu"))
    if train.get("tf32") and launch.device == "cpu":
        yield Problem(where("train.tf32"), "train.tf32 needs an Ampere GPU or newer", "remove it; this run is on a CPU")
    elif train.get("tf32") and cards and not all(card.has_bfloat16 for card in cards):
        yield Problem(where("train.tf32"), "train.tf32 needs an Ampere GPU or newer", "remove it")
    if train.get("bf16") and cards and not all(card.has_bfloat16 for card in cards):
        yield Problem(
            where("train.bf16"), "train.bf16 needs a GPU that has bfloat16", "remove it, or set train.fp16=true"
        )
    if train.get("torch_compile") is False and composed.origin("train", "torch_compile").by != "group":
        for key in ("torch_compile_backend", "torch_compile_mode"):
            if train.get(key) is not None:
                what = f"train.{key} turns compiling on, and train.torch_compile=false turns it off"
                yield Problem(where(f"train.{key}"), what, "remove one of them")
    if "tpu_metrics_debug" in str(train.get("debug") or ""):
        yield Problem(where("train.debug"), "train.debug=tpu_metrics_debug needs a TPU", "remove it")
    if run.spec.method.get("activation_offloading") and launch.device == "cpu":
        what = "method.activation_offloading moves activations from a GPU to the CPU, where this run keeps them anyway"
        yield Problem(where("method.activation_offloading"), what, "remove it")


def _named_card(name: str, device: str, place: str) -> Iterator[Problem]:
    if card(name) is None:
        yield Problem(place, f"{name} is not a known card", f"one of {', '.join(CARDS)}, or its memory: 24GiB")
    if device == "cpu":
        yield Problem(place, "a run on the CPU uses no card", "leave it out, or set hardware=gpu")


def _router(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    dense = run.shape is not None and run.shape.known and run.shape.experts is None
    if run.spec.method.get("router_aux_loss_coef") and dense:
        what = "method.router_aux_loss_coef weighs the loss of a router, and this model has no experts"
        yield Problem(where("method.router_aux_loss_coef"), what, "remove it")


def _rows(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The order in which rows are taken, where the rows or the trainer rule it out."""
    order, method = run.spec.train.get("train_sampling_strategy"), run.method
    at = where("train.train_sampling_strategy")
    if order is None:
        return
    if method.samples:
        what = f"train.train_sampling_strategy has no effect: {method.name} takes its prompts in rollouts"
        yield Problem(at, what, "remove it")
    elif run.spec.data.streaming:
        yield Problem(at, "train.train_sampling_strategy has no effect on a stream", "use data.shuffle_buffer_rows")
    elif order in _BY_LENGTH and method.weights != "tokens":
        what = f"train.train_sampling_strategy={order} measures the one sequence of a row; {method.name}'s have several"
        yield Problem(at, what, "remove it, or choose random or sequential")


def _groups(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """Generation batches of the methods that sample a group of answers per prompt."""
    if "num_generations" not in fields_of(run.method.config):
        return
    settings, batch = run.spec.method, run.batch
    size, steps = settings.get("generation_batch_size"), settings.get("steps_per_generation")
    if size is not None and steps is not None:
        what = "method.generation_batch_size and method.steps_per_generation say the same, and both are set"
        yield Problem(where("method.generation_batch_size"), what, "keep one of them")
    elif size is not None and size % batch.rows_per_pass:
        what = f"method.generation_batch_size={size} is not a multiple of the {batch.rows_per_pass} answers of a batch"
        yield Problem(where("method.generation_batch_size"), what, f"set it to {batch.rows_per_pass}, or a multiple")
    low, high = (current(run, f"method.vllm_importance_sampling_clip_{end}") for end in ("min", "max"))
    if low is not None and high is not None and low >= high:
        what = f"method.vllm_importance_sampling_clip_min={low} is not below clip_max={high}"
        yield Problem(where("method.vllm_importance_sampling_clip_min"), what, "lower it")
