"""What is in a DeepSpeed configuration: names that DeepSpeed reads, and values that agree with the run's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.build.checks.adapter import is_installed
from ftcli.build.checks.field_needs import current
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.launch import profile
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.library_fields import fields_of, source_text

_ZERO = "deepspeed.runtime.zero.config:DeepSpeedZeroConfig"
# Sections whose names stand elsewhere in DeepSpeed than among its constants.
_SECTIONS = (
    "zero_optimization", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet", "comms_logger",
    "activation_checkpointing", "autotuning", "elasticity", "compression_training", "data_efficiency", "aio",
    "hybrid_engine", "compile", "tensor_parallel", "checkpoint", "data_types", "nebula", "torch_autocast", "zenflow",
    "optimizer", "scheduler", "fp16", "bf16", "amp", "pipeline", "sparse_attention", "zero_allow_untested_optimizer",
)  # fmt: skip
# DeepSpeed's name for what a setting of ours says: "auto" takes it over, any other value has to be equal.
_SAME = {
    "train_micro_batch_size_per_gpu": "train.per_device_train_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "gradient_clipping": "train.max_grad_norm",
    "optimizer.params.lr": "train.learning_rate",
    "optimizer.params.eps": "train.adam_epsilon",
    "optimizer.params.weight_decay": "train.weight_decay",
    "scheduler.params.warmup_max_lr": "train.learning_rate",
    "fp16.enabled": "train.fp16",
    "bf16.enabled": "train.bf16",
}


def deepspeed(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    """The problems of `train.deepspeed`, given as a mapping or read from its file."""
    if not is_installed("deepspeed"):
        yield Problem(at, f"{name} needs the package deepspeed, which is not installed", "pip install deepspeed")
        return
    brought = bool(profile.node_profile(run.spec.hardware).train)
    if run.spec.train.get("fsdp") and not brought:
        yield Problem(at, f"{name} and train.fsdp both shard the model", "keep one of them")
    known = {
        *re.findall(r"""^[A-Z_0-9]+ = ["']([a-z_0-9]+)["']""", source_text("deepspeed.runtime.constants"), re.MULTILINE)
    }
    known |= set(_SECTIONS)
    for key in content:
        if key not in known:
            yield Problem(at, f"{name} has no entry {key}", suggest(str(key), sorted(known), ""))
    if (parallel := _at(content, "tensor_parallel.autotp_size")) not in (None, 0, 1):
        key = f"{name}.tensor_parallel.autotp_size={parallel}"
        what = f"{key} gives several processes the same rows, which a run counts as different ones"
        yield Problem(at, what, "remove it; ZeRO-3 shards the weights (hardware=zero3)")
    yield from _zero(name, content.get("zero_optimization"), at, brought=brought)
    for path, ours in _SAME.items():
        theirs = _at(content, path)
        if theirs not in (None, "auto") and theirs != current(run, ours):
            what = f"{name}.{path}={theirs} differs from {ours}={current(run, ours)}"
            yield Problem(at, what, f'write "auto" there, and set {ours}')
    batch = run.batch.rows
    if content.get("train_batch_size") not in (None, "auto", batch):
        what = f"{name}.train_batch_size={content['train_batch_size']} differs from the run's {batch} rows per step"
        yield Problem(at, what, 'write "auto" there')


def _zero(name: str, zero: Any, at: str, *, brought: bool) -> Iterator[Problem]:
    if zero is None:
        return
    if not isinstance(zero, Mapping):
        yield Problem(at, f"{name}.zero_optimization is {zero!r}, which is not a mapping", "write {stage: 2}")
        return
    fields = fields_of(_ZERO)
    aliases = {"stage3_" + key for key in fields} | {"stage3_gather_16bit_weights_on_model_save"}
    for key in zero:
        if key not in fields and key not in aliases:
            yield Problem(at, f"{name}.zero_optimization has no entry {key}", suggest(str(key), sorted(fields), ""))
    stage = zero.get("stage", 0)
    whole = zero.get("stage3_gather_16bit_weights_on_model_save", zero.get("gather_16bit_weights_on_model_save"))
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        yield Problem(at, f"{name}.zero_optimization.stage={stage!r} is not a stage", "give 0, 1, 2 or 3")
    elif stage == 3 and whole is not True and not brought:
        what = f"{name} leaves the finished model in pieces, which nothing here loads"
        fix = "add zero_optimization.stage3_gather_16bit_weights_on_model_save: true, or set hardware=zero3"
        yield Problem(at, what, fix)


def _at(content: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    found: Any = content
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
