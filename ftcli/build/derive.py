"""Derives the values that the user left open, and notes each with its reason. A value that was set is never changed.

The order of the calls, in resolve.py, matters: what is derived later reads what was derived before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli.build.variant import with_variant
from ftcli.config.compose import Composed
from ftcli.core import hardware, paths, rotary_angles
from ftcli.data import row_sets
from ftcli.evaluations.retention import GENERAL
from ftcli.launch.profile import Profile, cards, has_bfloat16
from ftcli.methods import Method
from ftcli.methods.method import REWARD_FIELDS, SCORE_ROWS
from ftcli.models import attention_kernels
from ftcli.models.attention_kernels import FLASH
from ftcli.models.packing_support import why_unpacked
from ftcli.models.shape import Shape
from ftcli.peft_methods import PeftMethod
from ftcli.runs import rundir
from ftcli.settings.batch_plan import train_value
from ftcli.settings.groups import DataSettings, ModelSettings, QuantisationSettings, RunSettings
from ftcli.settings.library_fields import value_of
from ftcli.settings.run_spec import LaunchPlan, Notes, RunSpec
from ftcli.tiny import defaults

CHEAP_TO_SCORE_PARAMETERS = 10_000_000
"""Up to this size a model is scored without being asked to; above it, generating the answers takes minutes."""
_EVAL_ROWS = 8
"""Rows that are evaluated together where memory is no matter."""
EXACT_ATTENTION = ("sdpa", "eager", "flex_attention", *FLASH)


def derive_attention(
    model: ModelSettings,
    shape: Shape | None,
    launch: LaunchPlan,
    train: Mapping[str, Any],
    notes: Notes,
    *,
    packed_tokens: int | None,
    measures: bool,
) -> tuple[ModelSettings, tuple[str, ...]]:
    """Resolve `attn_implementation`, and the kernels among which the worker measures; () where this decides.

    Args:
        train: its settings as they were given.
        packed_tokens: the length of packed rows where one was set.
        measures: whether the worker can: it knows the rows of a pass, and they go through the model as they are.
    """
    if model.attn_implementation != "auto":
        return model, ()
    float32 = model.dtype == "float32" and train.get("bf16") is False and not train.get("fp16")
    if train.get("fp16") is None and not has_bfloat16(launch):
        float32 = False  # such a card computes in float16 unless that is forbidden
    about: dict[str, Any] = {"packed_tokens": packed_tokens, "float32": float32}
    kernel, why = attention_kernels.chosen(shape, cards(launch), **about)
    found = attention_kernels.candidates(shape, cards(launch), **about)
    # Code that a model ships may compute its attention otherwise than the class that would be measured.
    several = found if measures and len(found) > 1 and not model.trust_remote_code else ()
    if several:
        why += f"; when it starts, the run measures it beside {' and '.join(found[1:])}, and takes the fastest"
    return replace(model, attn_implementation=notes.add("model.attn_implementation", kernel, why)), several


def derive_dtype(model: ModelSettings, launch: LaunchPlan, notes: Notes) -> ModelSettings:
    """Resolve `dtype`."""
    if model.dtype != "auto":
        return model
    if launch.device == "cpu":
        return replace(model, dtype=notes.add("model.dtype", "float32", "the CPU computes in float32"))
    if has_bfloat16(launch):
        return replace(model, dtype=notes.add("model.dtype", "bfloat16", "the GPU supports it"))
    return replace(model, dtype=notes.add("model.dtype", "float16", "the GPU does not support bfloat16"))


def derive_quantisation(
    quantisation: QuantisationSettings, peft: PeftMethod | None, composed: Composed, launch: LaunchPlan, notes: Notes
) -> QuantisationSettings:
    """Resolve the compute dtype of quantised weights, and note a quantisation that the PEFT method implied."""
    if peft and peft.implies == quantisation.type and composed.origin("quantisation").by == "group":
        notes.add(
            "quantisation.type", quantisation.type, f"implied by peft={peft.name}; quantisation=NAME overrides it"
        )
    if quantisation.type in ("none", "int8") or quantisation.compute_dtype != "auto":
        return quantisation
    if launch.device == "cpu":
        kind, why = "float32", "the CPU computes in float32"
    else:
        kind, why = "float16", "the GPU does not support bfloat16"
        if has_bfloat16(launch):
            kind, why = "bfloat16", "the GPU supports it"
    dtype: Any = notes.add("quantisation.compute_dtype", kind, why)
    return replace(quantisation, compute_dtype=dtype)


def derive_peft(peft: dict[str, Any], declared: PeftMethod | None, shape: Shape | None, notes: Notes) -> dict[str, Any]:
    """The adapter's settings: its defaults, the user's values over them, and what depends on the model's family."""
    if declared is None:
        return dict(peft)
    result = {**declared.defaults, **declared.fixed, **peft}
    for name, found in declared.follows(shape, result).items() if shape is not None and shape.known else ():
        if result.get(name) is None:
            result[name] = notes.add(f"peft.{name}", found.value, found.why)
    return result


def derive_method(
    settings: dict[str, Any],
    method: Method,
    peft: PeftMethod | None,
    shape: Shape | None,
    model: ModelSettings,
    data: DataSettings,
    notes: Notes,
) -> dict[str, Any]:
    """Resolve the rewards of the built-in prompts, the fields of the method's variant, and packing.

    Packing is on only where it is known to leave the gradients unchanged: the architecture keeps packed documents
    apart, and so do the attention kernel and the adapter.
    """
    if (
        method.rewarded
        and isinstance(data.path, str)
        and data.path in defaults.REWARDED_SETS
        and not any(settings.get(name) for name in REWARD_FIELDS)
    ):
        why = "each built-in prompt has exactly one right answer"
        settings = {**settings, "rewards": notes.add("method.rewards", dict(defaults.REWARDS), why)}
    settings = with_variant(settings, method, notes)
    if not method.packs or settings.get("packing") is not None:
        return dict(settings)
    value, why = True, "packing gives the same gradients here and wastes no tokens on padding"
    if peft is not None and peft.never_packs:
        value, why = False, peft.never_packs
    elif reason := why_unpacked(shape, model.attn_implementation, settings):
        value, why = False, reason
    elif model.attn_implementation not in EXACT_ATTENTION:
        value, why = False, f"packing is not known to be exact with {model.attn_implementation} attention"
    return {**settings, "packing": notes.add("method.packing", value, why)}


def note_engine(spec: RunSpec, method: Method, notes: Notes) -> None:
    """Note what vLLM is given of the run where it samples, and what only a server of its own can be given."""
    if not spec.method.get("use_vllm"):
        return
    mode = value_of(method.config, spec.method, "vllm_mode")
    why = f"it computes in {spec.compute_dtype}, as the policy does, and draws by the run's seed"
    if mode == "server":
        why = f"the server's own options hold: start it with --dtype {spec.compute_dtype} and a --seed of your choice"
    notes.add("method.vllm_mode", mode, why)


def derive_data(data: DataSettings, method: Method, notes: Notes) -> DataSettings:
    """Resolve what happens to rows over the length limit; the limit itself is derived when the rows are counted."""
    if data.max_length_tokens is None:
        data = replace(data, max_length_tokens="auto")
    if data.mix is not None:
        data = replace(data, path=None)
    if data.overflow == "auto":
        overflow: Any = notes.add("data.overflow", method.overflow, f"usual for {method.name}")
        data = replace(data, overflow=overflow)
    return data


def has_validation(data: DataSettings, method: Method) -> bool:
    """Whether there are held-out rows to validate on."""
    return data.eval_share > 0 or row_sets.eval_set(data, method) is not None


def derive_sharding(train: Mapping[str, Any], profile: Profile, notes: Notes) -> dict[str, Any]:
    """The `train` settings with those that the hardware profile brings; entries that the user gave go first."""
    result, why = dict(train), f"hardware.type={profile.name}"
    for key, brought in profile.train.items():
        mine = result.get(key)
        if mine is None:
            result[key] = notes.add(f"train.{key}", brought, why)
        elif isinstance(mine, Mapping) and isinstance(brought, Mapping):
            result[key] = notes.add(f"train.{key}", _laid_over(brought, mine), f"{why}, with yours laid over it")
    return result


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = _laid_over(below[key], above[key])
    return merged


def derive_train(
    train: dict[str, Any],
    method: Method,
    peft: PeftMethod | None,
    data: DataSettings,
    launch: LaunchPlan,
    notes: Notes,
    *,
    pure: bool = False,
) -> dict[str, Any]:
    """Resolve the TrainingArguments that are derived where they are null.

    Args:
        pure: whether the user chose the half-precision type that trained weights are held in.
    """
    result = dict(train)
    if result.get("eval_strategy") is None:
        held_out = has_validation(data, method)
        strategy, why = ("epoch", "there are held-out rows") if held_out else ("no", "there are no held-out rows")
        if held_out and result.get("eval_steps") is not None:
            strategy, why = "steps", "train.eval_steps is set"
        elif held_out and result.get("load_best_model_at_end"):
            strategy, why = (
                str(result.get("save_strategy")),
                "train.load_best_model_at_end needs an evaluation at each save",
            )
            if strategy == "steps":
                result["eval_steps"] = notes.add("train.eval_steps", result.get("save_steps"), "train.save_steps")
        result["eval_strategy"] = notes.add("train.eval_strategy", strategy, why)
    ordered = data.mix is not None and data.mix_order == "concatenate" and not data.streaming
    if ordered and result.get("train_sampling_strategy") is None:
        why = "data.mix_order=concatenate trains the sets one after another"
        result["train_sampling_strategy"] = notes.add("train.train_sampling_strategy", "sequential", why)
    if result.get("per_device_eval_batch_size") is None:
        result["per_device_eval_batch_size"] = _eval_rows(result, method, notes)
    if result.get("bf16") is None:
        result["bf16"] = _bf16(bool(result.get("fp16")), launch, notes, pure=pure)
    if launch.device == "cuda" and result.get("fp16") is None and not has_bfloat16(launch) and not result["bf16"]:
        why = "the GPU does not support bfloat16; the loss is scaled, and what trains is held in float32"
        result["fp16"] = notes.add("train.fp16", True, why)
    if launch.device == "cuda":
        result |= _on_gpu(result, launch, notes)
    if result.get("gradient_checkpointing") is None:
        value = launch.device == "cuda" and not (peft and peft.never_checkpoints)
        why = "saves most of the activation memory for about a fifth of the speed"
        if not value:
            why = "not needed on CPU" if launch.device == "cpu" else peft.never_checkpoints if peft else ""
        result["gradient_checkpointing"] = notes.add("train.gradient_checkpointing", value, why)
    return result


def eval_rows(method: Method, per_device: int) -> int:
    """Rows that are evaluated together: without gradients, twice those that train need no more memory than they do.

    Args:
        per_device: rows of a pass in training.
    """
    if method.samples:  # whose held-out answers are generated, which takes a cache of keys and values
        return _EVAL_ROWS
    return min(_EVAL_ROWS, 2 * per_device)


def _eval_rows(train: dict[str, Any], method: Method, notes: Notes) -> int:
    size = eval_rows(method, int(train_value(train, "per_device_train_batch_size")))
    if size < _EVAL_ROWS:
        why = "twice the training batch: without gradients that needs no more memory"
        notes.add("train.per_device_eval_batch_size", size, why)
    return size


def _on_gpu(train: dict[str, Any], launch: LaunchPlan, notes: Notes) -> dict[str, Any]:
    """How a GPU multiplies, and how it is fed."""
    chosen: dict[str, Any] = {}
    mixed = train.get("bf16") or train.get("fp16")
    if train.get("tf32") is None and mixed and has_bfloat16(launch):
        exact = rotary_angles.exact_under_tf32()
        why = "the few products that autocast leaves in float32 use the tensor cores"
        if not exact:
            why = "it would round positions of a row after 2048: before 5.20, transformers multiplies matrices for them"
        chosen["tf32"] = notes.add("train.tf32", exact, why)
    if train.get("dataloader_pin_memory") is None:
        why = "batches are copied to the GPU while it computes"
        chosen["dataloader_pin_memory"] = notes.add("train.dataloader_pin_memory", True, why)
    if train.get("torch_compile") is None:
        why = "each new length of rows would be compiled again; worth a try for long runs of packed blocks"
        notes.add("train.torch_compile", False, why)
    return chosen


def _bf16(fp16: bool, launch: LaunchPlan, notes: Notes, *, pure: bool) -> bool:
    if launch.device == "cpu":
        value, why = False, "the CPU computes in float32"
        if hardware.cpu_multiplies_bfloat16():
            why += "; this one has bfloat16 too, and train.bf16=true takes about half the time"
    elif fp16:
        value, why = False, "train.fp16 is set"
    elif not has_bfloat16(launch):
        value, why = False, "the GPU does not support bfloat16"
    elif pure:
        value, why = False, "model.dtype is set: weights are trained in that type alone"
    else:
        value, why = True, "the GPU supports bfloat16; what trains is held in float32"
    return bool(notes.add("train.bf16", value, why))


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "run"


def _model_label(path: str) -> str:
    """A short name for a model given by path: the name of the run that trained it, else the last part of the path."""
    run = rundir.find_run(path)
    return str(RunSpec.load(run / rundir.SPEC).run.name) if run else Path(path).name


def derive_run(
    run: RunSettings, method: str, model: str, model_path: str, cheap_to_score: bool, notes: Notes
) -> RunSettings:
    """Resolve the run's name, its directory, and how many held-out rows are scored."""
    if run.name is None:
        label = _model_label(model_path) if model == "tiny" and model_path != paths.BUILTIN else model
        run = replace(run, name=notes.add("run.name", _slug(f"{method}-{label}"), "METHOD-MODEL"))
    if run.dir is None:
        directory = str(rundir.new_run_dir(str(run.name)))
        run = replace(run, dir=notes.add("run.dir", directory, "runs/NAME/TIME"))
    if run.score_rows is None:
        why = "a model this small is scored in seconds" if cheap_to_score else "ftcli eval RUN scores it on request"
        rows = SCORE_ROWS if cheap_to_score else 0
        run = replace(run, score_rows=notes.add("run.score_rows", rows, why))
    if run.gate and run.retention is None:
        run = replace(run, retention=notes.add("run.retention", GENERAL, "run.gate judges what is kept of it"))
    return run


def derive_loss_before(
    run: RunSettings, method: Method, data: DataSettings, train: Mapping[str, Any], notes: Notes
) -> RunSettings:
    """Resolve whether the held-out loss is measured before training; where there is none, it is not, without a note."""
    if run.loss_before is not None:
        return run
    if not has_validation(data, method) or method.rewarded:
        return replace(run, loss_before=False)
    if train.get("eval_on_start"):
        value, why = False, "train.eval_on_start measures it"
    elif run.score_rows:
        value, why = True, "with run.score_rows"
    elif train.get("eval_strategy") == "no":
        value, why = False, "train.eval_strategy=no"
    elif method.samples:
        value, why = False, "answers would be sampled for it"
    else:
        value, why = True, "one pass over the held-out rows, a third of the time of training on as many"
    return replace(run, loss_before=notes.add("run.loss_before", value, why))
