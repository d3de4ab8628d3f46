"""What an optimiser and a learning-rate schedule need: a package, modules, arguments; read from their source."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.build.checks.adapter import is_installed
from ftcli.build.checks.field_needs import current
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.core.untrusted import foreign_files
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings import library_fields
from ftcli.settings.fields.field_row import compared
from ftcli.settings.library_values import (
    Parameter,
    dispatch,
    function,
    imported_by,
    keys_read,
    parameters,
    values_of,
)

Where = Callable[[str], str]
_OPTIMISERS = "transformers.trainer_optimizer"
_SCHEDULES = "transformers.optimization"
# Names by which packages are installed, where those differ from the module's.
_PACKAGES = {"galore_torch": "galore-torch", "apollo_torch": "apollo-torch", "lomo_optim": "lomo-optim",
             "optimi": "torch-optimi"}  # fmt: skip
# What the Trainer passes to every schedule itself.
_GIVEN = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
# The classes behind the schedules that follow a metric, whose functions take anything.
_FOLLOWING = {
    "get_reduce_on_plateau_schedule": ("torch.optim.lr_scheduler", "ReduceLROnPlateau.__init__"),
    "get_greedy_schedule": (_SCHEDULES, "GreedyLR.__init__"),
}
_RATES = ("min_lr", "min_lr_rate")
_WORDED = ("proj", "proj_type", "scale_type")
"""Arguments of optimisers that are words."""


def problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of `train.optim` and `train.lr_scheduler_type`, each with its arguments."""
    yield from _optimiser(run, where)
    yield from _schedule(run, where)


def _optimiser(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    name, train = run.spec.train.get("optim"), run.spec.train
    if name is None:
        if train.get("optim_args"):
            what = "train.optim_args is set, and the default optimiser has no arguments of that kind"
            yield Problem(where("train.optim_args"), what, "remove it, or choose train.optim")
        return
    handler = dispatch(_OPTIMISERS, "_OPTIMIZER_HANDLERS", "OptimizerNames").get(name, "")
    missing = [each for each in imported_by(_OPTIMISERS, handler) if not is_installed(each)]
    if missing:
        package = _PACKAGES.get(missing[0], missing[0])
        what = f"train.optim={name} needs the package {package}, which is not installed"
        yield Problem(where("train.optim"), what, f"pip install {package}, or choose train.optim=adamw_torch")
    if name.startswith("paged_") and run.spec.launch.device == "cpu":
        what = f"train.optim={name} pages its state out of a GPU's memory, and this run computes on a CPU"
        yield Problem(where("train.optim"), what, f"choose train.optim={_unpaged(name)}")
    if name.startswith(("galore", "apollo")) and not train.get("optim_target_modules"):
        what = f"train.optim={name} needs the modules whose gradients it projects"
        yield Problem(where("train.optim"), what, "add train.optim_target_modules=all-linear")
    if name.endswith("_layerwise") and current(run, "train.gradient_accumulation_steps") != 1:
        what = f"train.optim={name} updates a layer in its backward pass, so gradients cannot be accumulated"
        yield Problem(where("train.optim"), what, "set train.gradient_accumulation_steps=1")
    if name.endswith("_layerwise") and run.spec.launch.num_processes > 1:
        what = f"train.optim={name} does not work in several processes"
        yield Problem(where("train.optim"), what, "set hardware.num_processes=1, or choose another optimiser")
    source = function(_OPTIMISERS, handler)
    code = ast.unparse(source) if source is not None else "adam_kwargs"
    if "adam_kwargs" not in code and "adam_beta" not in code:
        yield from _unread_moments(run, where, name)
    yield from _arguments(train.get("optim_args"), name, handler, where("train.optim_args"))


def _unpaged(name: str) -> str:
    plain = name.removeprefix("paged_")
    return {"adamw_32bit": "adamw_torch", "ademamix_32bit": "ademamix"}.get(plain, plain)


def _unread_moments(run: ResolvedRun, where: Where, name: str) -> Iterator[Problem]:
    for key in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if run.spec.train.get(key) is not None:
            what = f"train.{key} is not read by train.optim={name}"
            yield Problem(where(f"train.{key}"), what, "remove it, or choose an optimiser of the Adam family")


def _arguments(given: Any, name: str, handler: str, where: str) -> Iterator[Problem]:
    """The problems of `train.optim_args`, text of the form NAME=VALUE,NAME=VALUE."""
    if not given:
        return
    known = keys_read(_OPTIMISERS, handler, "optim_args")
    if handler == "_get_bitsandbytes_optimizer" and "ademamix" not in name:
        known = ()  # the others of bitsandbytes take none, or take them as text, which they cannot compute with
    if not known:
        yield Problem(where, f"train.optim={name} reads no train.optim_args", "remove it")
        return
    for entry in str(given).replace(" ", "").split(","):
        key, sign, value = entry.partition("=")
        if not sign or not value or "=" in value:
            yield Problem(where, f"{entry!r} in train.optim_args is not NAME=VALUE", f"write {known[0]}=VALUE,…")
        elif key not in known:
            yield Problem(where, f"train.optim={name} has no argument {key}", suggest(key, known, ""))
        elif key not in _WORDED and "dtype" not in key and not _is_number(value):
            yield Problem(where, f"{key}={value} in train.optim_args is not a number", f"write {key}=NUMBER")


def _is_number(text: str) -> bool:
    """Whether an argument's text is a number, or the switch that stands for one."""
    if text.lower() in ("true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _schedule(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    kind, train = str(current(run, "train.lr_scheduler_type")), run.spec.train
    at, of_kind = where("train.lr_scheduler_kwargs"), where("train.lr_scheduler_type")
    handler = dispatch(_SCHEDULES, "TYPE_TO_SCHEDULER_FUNCTION", "SchedulerType").get(kind)
    if handler is None:
        return
    if handler in _FOLLOWING and current(run, "train.eval_strategy") == "no":
        what = f"train.lr_scheduler_type={kind} follows a held-out metric, and nothing is evaluated"
        yield Problem(of_kind, what, "add data.eval_share=0.05 with train.eval_strategy=steps, or choose cosine")
    given = as_mapping(train.get("lr_scheduler_kwargs"))
    if given is None:
        yield Problem(at, "train.lr_scheduler_kwargs is not a mapping", "write {NAME: VALUE}")
        return
    known = parameters(*_FOLLOWING.get(handler, (_SCHEDULES, handler)))
    own = {key: known[key] for key in known if key not in _GIVEN}
    for key, value in given.items():
        if key not in own:
            fix = suggest(str(key), own, "") if own else "remove it"
            yield Problem(at, f"train.lr_scheduler_type={kind} has no argument {key}", fix)
        elif problem := _argument(key, value, own[key], at):
            yield problem
    needed = [key for key, each in own.items() if each.required and key not in given]
    if kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        chosen = [key for key in _RATES if given.get(key) is not None]
        if len(chosen) > 1:
            yield Problem(at, "train.lr_scheduler_kwargs has both min_lr and min_lr_rate", "keep one of them")
        needed = ["min_lr_rate"] if not chosen else []
    if needed:
        what = f"train.lr_scheduler_type={kind} needs {', '.join(needed)}"
        example = {"min_lr_rate": "0.1"}.get(needed[0], "10")
        yield Problem(of_kind, what, f"add train.lr_scheduler_kwargs={{{needed[0]}: {example}}}")
    if kind == "warmup_stable_decay":
        yield from _stable_decay(given, at)
        yield from _over_too_early(given, train, at)
    if handler in _FOLLOWING and _number(given.get("factor")) and given["factor"] <= 0:
        what = f"factor={given['factor']} sets the rate to 0 the first time that the metric does not improve"
        yield Problem(at, what, "give a share between 0 and 1, such as 0.5")
    if kind == "polynomial":
        end, rate = given.get("lr_end", 1e-7), train.get("learning_rate")
        if _number(end) and _number(rate) and end >= rate:
            what = f"lr_end={end:g} is not below train.learning_rate={rate:g}, from which a polynomial decays to it"
            yield Problem(at, what, "lower lr_end, or raise train.learning_rate")
    if kind == "inverse_sqrt" and given.get("timescale") == 0:
        yield Problem(at, "timescale=0 divides by zero", "give the steps after which the rate has fallen by √2")


def _stable_decay(given: Mapping[str, Any], at: str) -> Iterator[Problem]:
    for key in ("warmup_type", "decay_type"):
        forms = values_of(compared(_SCHEDULES, key))
        if isinstance(given.get(key), str) and given[key] not in forms:
            what = f"{key}={given[key]} is not a form of warmup_stable_decay"
            yield Problem(at, what, suggest(given[key], forms, f"{key}="))


def _over_too_early(given: Mapping[str, Any], train: Mapping[str, Any], at: str) -> Iterator[Problem]:
    """A schedule whose parts are all given in steps, and are fewer than the run has: the others would have rate 0."""
    steps, warmup = train.get("max_steps"), train.get("warmup_steps") or 0
    parts = [given.get(key) for key in ("num_stable_steps", "num_decay_steps")]
    if steps is None or given.get("min_lr_ratio") or not all(map(_number, [steps, warmup, *parts])):
        return
    covered = sum(int(part or 0) for part in parts) + (int(warmup) if warmup >= 1 else math.ceil(steps * warmup))
    if covered + 1 < steps:  # a single step beyond it trains, as the decay then ends one step later
        what = f"warm-up, num_stable_steps and num_decay_steps are {covered} steps, and the rest of {steps} has rate 0"
        yield Problem(at, what, "leave num_stable_steps out: it is then what the others leave of the run")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _argument(key: str, value: Any, parameter: Parameter, at: str) -> Problem | None:
    """The problem of an argument of another type than its annotation; one without annotation is a number."""
    annotation = parameter.annotation
    sound = _number(value) if annotation is None else library_fields.accepts(annotation, value)
    if sound:
        return None
    return Problem(at, f"{key}={value!r} in train.lr_scheduler_kwargs is of the wrong type", f"give {key} a number")


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """A mapping that may be written as JSON, as transformers takes it; {} for null, None for anything else."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = foreign_files.parse_json(value)
        except ValueError:
            return None
    return {} if value is None else value if isinstance(value, Mapping) else None
