"""RunSpec → what the run will be: steps, tokens, parameters, memory, warnings. Touches nothing, needs no GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.core import hardware, hub_cache, paths
from ftcli.data import row_sets
from ftcli.methods import Method
from ftcli.methods.method import further_models
from ftcli.models import sources
from ftcli.models.known_shapes import model_shape
from ftcli.models.packing_support import PACKS_EXACTLY
from ftcli.models.parameters import num_parameters
from ftcli.models.shape import Shape
from ftcli.plan.memory import MemoryEstimate, estimate, weight_bytes
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.token_cache import count
from ftcli.plan.tokens import TokenCount
from ftcli.settings.batch_plan import train_value
from ftcli.settings.library_fields import fields_of
from ftcli.settings.run_spec import RunSpec

_UNTESTED = ("parallelism_config", "no method is")
_FEW_STEPS, _MANY_ROWS = 20, 100
"""Packing is warned of below so many steps in all, with at least so many rows in each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The outlook of one run. Counts that cannot be known without the model or its tokenizer are None."""

    trainer: str
    model: str
    device: str
    num_processes: int
    global_batch: int
    """Rows, or blocks of packed rows, that make one optimiser step, over all processes and accumulation."""
    rows: int
    rows_kept: int
    blocks: int | None
    """Blocks that the rows of one epoch are packed into; None where each row stays by itself."""
    steps: int
    tokens_per_epoch: int
    tokens_exact: bool
    parameters: int | None
    trainable: int | None
    flops: float | None
    """Floating-point operations of the training steps: 6 a parameter and token, 4 where the base stays as it is."""
    memory: MemoryEstimate | None
    warnings: tuple[str, ...]
    notes: tuple[Mapping[str, Any], ...]


def tokenizer_folder(spec: RunSpec) -> Path | None:
    """The local folder with the model's tokenizer files, where there is one."""
    source = sources.model_source(spec.model.name_or_path)
    if source is None:
        return None
    if source.folder is not None:
        return source.folder
    return hub_cache.cached_snapshot(str(source.hub_id), spec.model.revision)


def trainable_parameters(run: ResolvedRun) -> int | None:
    """Parameters that will train; None where the architecture is not known."""
    if run.shape is None:
        return None
    if run.peft is None:
        return model_parameters(run.shape, run.method)
    found = run.peft.count(run.shape, run.spec.peft)
    # A head that gives scores is new, so it trains whatever else does.
    return found if found is None or run.method.head == "causal_lm" else found + run.shape.hidden_size


def model_parameters(shape: Shape | None, method: Method) -> int | None:
    """Parameters of the model with the head that the method puts on it; None where the architecture is not known."""
    whole = num_parameters(shape) if shape else None
    if shape is None or whole is None or method.head == "causal_lm":
        return whole
    words = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    return whole - words + shape.hidden_size


def num_steps(run: ResolvedRun, rows: int) -> int:
    """Optimiser steps of the run, as the Trainer counts them; `rows` are those trained on in one epoch."""
    train, method = run.spec.train, run.method
    if train.get("max_steps") is not None:
        return int(train["max_steps"])
    epochs = float(train_value(train, "num_train_epochs"))
    if method.steps_per_epoch is not None:
        return math.ceil(epochs * method.steps_per_epoch(run.spec.method, run.batch, rows))
    drop_last = bool(train.get("dataloader_drop_last"))
    return math.ceil(epochs * run.batch.steps_per_epoch(rows, drop_last=drop_last))


def _training_rows(spec: RunSpec, counted: TokenCount) -> int:
    """Sequences of one epoch after packing and splitting, without those held out."""
    pieces = counted.pieces
    if spec.method.get("packing") and counted.tokens:
        full = math.ceil(counted.tokens / counted.max_length_tokens)
        pieces = full if spec.method.get("packing_strategy") == "wrapped" else counted.blocks or full
    if not spec.data.eval_share or not counted.rows:
        return pieces
    # As the worker draws them: of all rows, at least one and never all; those too long are missed on either side alike.
    held_out = min(max(1, round(spec.data.eval_share * counted.rows)), counted.rows - 1)
    return max(1, pieces - round(held_out * pieces / counted.rows))


def _memory(run: ResolvedRun, trainable: int | None, counted: TokenCount) -> MemoryEstimate | None:
    spec, method, shape, adapter = run.spec, run.method, run.shape, run.trains_adapter
    if shape is None or trainable is None:
        return None
    limit = counted.max_length_tokens
    # A sample's longest row says nothing of the rest, and packed blocks are always full.
    length = counted.longest if counted.exact and not spec.method.get("packing") else limit
    precomputed = bool(spec.method.get("precompute_ref_log_probs"))
    sides = 2 if method.task == "preference" else 1  # chosen and rejected go through in one batch
    unused = method.samples and spec.method.get("beta") == 0
    length += _answer_tokens(spec, method)
    return estimate(
        shape,
        trainable_parameters=trainable,
        adapter=adapter,
        per_device_batch_size=run.batch.per_device * sides,
        sequence_length=max(1, length),
        weight_bytes=weight_bytes(shape, spec.model.dtype, spec.quantisation.type),
        compute_bytes=4 if spec.launch.device == "cpu" else 2,
        optim=str(train_value(spec.train, "optim")),
        gradient_checkpointing=bool(spec.train.get("gradient_checkpointing")),
        attn_implementation=spec.model.attn_implementation,
        num_reference_models=int("reference" in method.roles and not adapter and not precomputed and not unused),
        other_models_bytes=_other_models(spec, method),
        num_processes=spec.launch.num_processes,
        cuda=spec.launch.device == "cuda",
    )


def _other_models(spec: RunSpec, method: Method) -> float:
    """Bytes of a reward model or teacher, and of a value network with its gradients and two states of the optimiser."""
    weight = weight_bytes(None, spec.model.dtype)
    frozen = [(name, 1) for key, name, _ in further_models(spec.method) if key != "value_model"]
    others = [*frozen, (_value_network(spec, method), 4)]
    total = 0.0
    for name, copies in others:
        shape = model_shape(replace(spec.model, name_or_path=str(name), shape=None)) if name else None
        total += copies * weight * ((num_parameters(shape) if shape else None) or 0)
    return total


def _value_network(spec: RunSpec, method: Method) -> Any:
    wanted = spec.method.get("value_model") if "value" in method.roles else None
    return spec.method.get("reward_model") if wanted == "reward_model" else None if wanted == "head" else wanted


def _warnings(run: ResolvedRun, counted: TokenCount, memory: MemoryEstimate | None, sequences: int) -> list[str]:
    spec, method, shape, found = run.spec, run.method, run.shape, list[str]()
    if counted.faulty:
        found.append(f"{counted.faulty} rows cannot be used; ftcli data check names them")
    if counted.overlong:
        cut = {"truncate_left": "cut on the left", "truncate_right": "cut on the right"}
        became = {"drop": "dropped", "split": "split", **cut}
        end = became.get(spec.data.overflow, "refused: training stops on the first of them")
        limit = counted.max_length_tokens
        found.append(f"{counted.overlong} of {counted.rows} rows are longer than {limit} tokens and {end}")
    for each in row_sets.train_sets(spec.data, method):
        if row_sets.located(each, each.key, fetch=False) is None:
            found.append(f"{each.settings.path} is elsewhere: its rows are not counted before the run starts")
    if paths.is_builtin(spec.data.path) and spec.choices["model"] != "tiny":
        found.append(f"{spec.data.path} is a built-in demonstration set; name your own with data.path=FILE")
    for name, tested in (("fsdp", "sft, dpo and ppo are"), ("deepspeed", "sft, dpo and ppo are"), _UNTESTED):
        if spec.train.get(name):
            found.append(f"train.{name} goes to the trainer as it stands; {tested} tested with it")
    exact = shape is not None and shape.model_type in PACKS_EXACTLY
    if spec.method.get("packing") and not exact:
        found.append("it is not known whether this architecture keeps packed documents apart")
    if spec.run.score_rows and method.score == "none":
        found.append(f"{method.name} has no score of its own; the held-out loss stands alone")
    if spec.method.get("packing") and counted.kept:
        found.extend(_few_steps(run, counted, sequences))
    gpus = hardware.gpus()
    if memory and gpus and spec.launch.device == "cuda" and memory.total_gib > min(g.memory_gib for g in gpus):
        have = min(gpu.memory_gib for gpu in gpus)
        found.append(f"the estimate of {memory.total_gib:.1f} GiB is above the GPU's {have:.1f} GiB")
    return found


def _few_steps(run: ResolvedRun, counted: TokenCount, blocks: int) -> list[str]:
    """That packed rows leave a run few steps, each over many rows."""
    steps, rows = num_steps(run, blocks), round(run.batch.rows * counted.kept / blocks)
    if steps >= _FEW_STEPS or rows < _MANY_ROWS:
        return []
    rows = min(rows, counted.kept)
    fix = "lower train.gradient_accumulation_steps or the batch size, or set method.packing=false"
    return [f"{steps} steps in all: packed, a step trains about {rows} rows; for more, {fix}"]


def _answer_tokens(spec: RunSpec, method: Method) -> int:
    """The longest answer that a method samples; 0 where it samples none."""
    if not method.samples:
        return 0
    fields = fields_of(method.config)
    name = "max_new_tokens" if "max_new_tokens" in fields else "max_completion_length"
    return int(spec.method.get(name) or fields[name].default)


def _flops(run: ResolvedRun, parameters: int | None, counted: TokenCount, sequences: int) -> float | None:
    if parameters is None or not counted.tokens or not sequences:
        return None
    # Per parameter and token: 2 forward, 2 for the gradient of the activations, 2 for that of the weights.
    each = 4 if run.trains_adapter else 6
    tokens = counted.tokens / sequences + _answer_tokens(run.spec, run.method)
    return each * parameters * tokens * num_steps(run, sequences) * run.batch.rows


def _length(spec: RunSpec, counted: TokenCount) -> list[Mapping[str, Any]]:
    """The longest row, where it is worked out from the rows."""
    if isinstance(spec.data.max_length_tokens, int):
        return []
    about = "" if counted.exact else "about: "
    return [{"key": "data.max_length_tokens", "value": counted.max_length_tokens, "why": about + counted.why}]


def plan(run: ResolvedRun) -> Plan:
    """The outlook of a checked run; reads the data files (a sample of those over 20 MB) but no weights.

    Raises:
        DataError: a data file holds nothing that can be read.
    """
    spec, method, shape = run.spec, run.method, run.shape
    limit = shape.max_position_embeddings if shape else None
    counted = count(spec.data, method, tokenizer_folder(spec), limit)
    trainable = trainable_parameters(run)
    memory = _memory(run, trainable, counted)
    sequences = _training_rows(spec, counted)
    parameters = model_parameters(shape, method)
    return Plan(
        trainer=method.trainer.rpartition(":")[2],
        model=spec.model.name_or_path,
        device=spec.launch.device,
        num_processes=spec.launch.num_processes,
        global_batch=run.batch.rows,
        rows=counted.rows,
        rows_kept=counted.kept,
        blocks=sequences if spec.method.get("packing") else None,
        steps=num_steps(run, sequences),
        tokens_per_epoch=counted.tokens,
        tokens_exact=counted.exact,
        parameters=parameters,
        trainable=trainable,
        flops=_flops(run, parameters, counted, sequences),
        memory=memory,
        warnings=tuple(_warnings(run, counted, memory, sequences)),
        notes=(
            *({"key": note.key, "value": note.value, "why": note.why} for note in spec.notes),
            *_length(spec, counted),
        ),
    )
