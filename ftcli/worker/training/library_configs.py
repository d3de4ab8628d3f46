"""A spec's `train`, `method` and `peft` settings as the libraries' own config objects.

Settings that ftcli owns are set here and only here; the rest is passed through unchanged.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.core.errors import ConfigError, Problem
from ftcli.methods.method import Method
from ftcli.peft_methods import PeftMethod
from ftcli.runs import rundir
from ftcli.settings.library_fields import fields_of
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.tuners.support import Support


def load_class(path: str) -> Any:
    """The class that a declaration names as `module:Class`; only that module is imported."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def training_config(spec: RunSpec, method: Method, run_dir: Path, *, validates: bool, **overrides: Any) -> Any:
    """The trainer config of a run; building it starts accelerate's state, so the world size is known afterwards.

    Args:
        validates: whether there are held-out rows.

    Raises:
        ConfigError: the library refuses a value, or evaluation is requested without held-out rows.
    """
    config_class = load_class(method.config)
    known = {f.name for f in fields(config_class) if f.init}
    requested = {**method.defaults, **spec.method, **spec.train, **method.fixed}
    requested = {name: value for name, value in requested.items() if name != "name" and value is not None}
    values = _as_declared(method.config, {**_defaults(spec), **requested, **_owned(spec, run_dir), **overrides})
    if not values.get("packing"):
        # Rows already fit when the trainer sees them; only packing needs the length, for its blocks.
        values["max_length"] = None
    if not validates and values.get("eval_strategy", "no") != "no":
        fix = "give data.eval_path or data.eval_share"
        raise ConfigError(Problem("train.eval_strategy", "there are no held-out rows to evaluate on", fix))
    try:
        return config_class(**{name: value for name, value in values.items() if name in known or name in requested})
    except (ValueError, TypeError) as error:
        raise ConfigError(Problem("train", f"the trainer refuses the settings: {error}")) from None


def _as_declared(config: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values with a whole number as a float where the config declares one: `generate` refuses temperature=2."""
    declared = fields_of(config)
    kinds = {name: set(re.findall(r"\w+", declared[name].type_text)) for name in values if name in declared}
    return {
        name: float(value)
        if type(value) is int and "float" in kinds.get(name, ()) and "int" not in kinds[name]
        else value
        for name, value in values.items()
    }


def make_support(spec: RunSpec, declared: PeftMethod | None) -> Support:
    """What the run's tuner needs beyond its config."""
    kind = load_class(declared.support) if declared and declared.support else Support
    return cast(Support, kind(spec.peft))


def peft_config(
    spec: RunSpec,
    declared: PeftMethod | None,
    support: Support,
    tokenizer: PreTrainedTokenizerBase,
    task_type: str = "CAUSAL_LM",
) -> Any | None:
    """The PEFT config of a run, or None if the model's own parameters are trained.

    Args:
        task_type: PEFT's name for the kind of model: CAUSAL_LM or SEQ_CLS.

    Raises:
        ConfigError: PEFT refuses a value.
    """
    if declared is None or not declared.adapter:
        return None
    config_class = load_class(declared.config)
    values = support.config_values(declared.config_values(spec.peft), tokenizer)
    values |= {"task_type": task_type, "revision": spec.model.revision}
    try:
        return config_class(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(Problem("peft", f"PEFT refuses the settings: {error}")) from None


def check_world(spec: RunSpec, config: Any) -> None:
    """Refuse a world that differs from the plan: some launcher flags silently start one process, or none on the GPU.

    Raises:
        ConfigError: names the planned and the actual world.
    """
    planned = f"{spec.launch.num_processes} process(es) on {spec.launch.device}"
    found = f"{config.world_size} process(es) on {config.device.type}"
    if planned != found:
        fix = "start the run with ftcli train; ftcli doctor shows the detected hardware"
        raise ConfigError(Problem("hardware", f"planned for {planned}, but started as {found}", fix))


def _defaults(spec: RunSpec) -> dict[str, Any]:
    """Defaults that the spec may override; the libraries' own defaults do not suit a CPU."""
    on_cpu = spec.launch.device == "cpu"
    values: dict[str, Any] = {
        "report_to": "none",
        "eval_strategy": "no",
        "bf16": False,
        "dataloader_pin_memory": not on_cpu,
        "include_num_input_tokens_seen": "non_padding",
    }
    if on_cpu:
        values["gradient_checkpointing"] = False
    if spec.launch.num_processes > 1:
        # Every parameter of a text model is used in each step; searching for unused ones costs a pass over the graph.
        values["ddp_find_unused_parameters"] = False
    return values


def _owned(spec: RunSpec, run_dir: Path) -> dict[str, Any]:
    return {
        "output_dir": str(run_dir / rundir.CHECKPOINTS),
        "seed": spec.seed,
        "data_seed": spec.seed,
        "disable_tqdm": True,
        "use_cpu": spec.launch.device == "cpu",
        # With the filter a loss of NaN is logged as 0.0, and the run succeeds with broken weights.
        "logging_nan_inf_filter": False,
        # Our rows only hold columns that are used.
        "remove_unused_columns": False,
    }
