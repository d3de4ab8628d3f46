"""What is inside the mappings that a trainer passes on: names and types, from the source of what reads them.

The Trainer hands these to accelerate, torch or DeepSpeed at its first use of them, minutes into a run, or ignores what
it does not know. Each rule here is named by `inside` in the table of fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.build.checks import generation, reward_code
from ftcli.build.checks.deepspeed_file import deepspeed
from ftcli.build.checks.optimisers import as_mapping
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.core.untrusted import foreign_files
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.fields.field_row import literal
from ftcli.settings.fields.field_table import row_of
from ftcli.settings.library_fields import accepts, fields_of
from ftcli.settings.library_values import keys_read, values_of
from ftcli.settings.sharding import sharding

Where = Callable[[str], str]
Inside = Callable[[str, Mapping[str, Any], ResolvedRun, str], Iterator[Problem]]

# What the Trainer itself takes out before it calls torch.utils.checkpoint with the rest.
_CHECKPOINTING: Mapping[str, type] = {
    "use_reentrant": bool, "preserve_rng_state": bool, "debug": bool, "early_stop": bool, "determinism_check": str,
    "every_n_layers": int, "offload": bool,
}  # fmt: skip
# Parts of accelerate's config that ftcli decides, or that have no meaning without a program of the user's own.
_ACCELERATOR = {
    "split_batches": "train.per_device_train_batch_size, which is the batch of each device",
    "gradient_accumulation_kwargs": "train.gradient_accumulation_steps",
    "use_configured_state": "ftcli, whose workers configure it",
}


def problems(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """The problems of what is in each mapping of `train` and `method` that the table has a rule for."""
    for group, settings in (("train", run.spec.train), ("method", run.spec.method)):
        for key, value in settings.items():
            row = row_of(f"{group}.{key}")
            rule = RULES.get(row.inside) if row is not None else None
            if rule is None or value is None:
                continue
            name, at = f"{group}.{key}", where(f"{group}.{key}")
            content, problem = _content(name, value, at, is_file=row is not None and "reads" in row.reaches)
            if problem is not None:
                yield problem
            elif content is not None:
                yield from rule(name, content, run, at)


def _content(name: str, value: Any, at: str, *, is_file: bool) -> tuple[Mapping[str, Any] | None, Problem | None]:
    """The mapping that a value is, holds as JSON, or names as a file; else the problem."""
    mapping = as_mapping(value)
    if mapping is not None:
        return mapping, None
    if not is_file or not isinstance(value, str) or value.startswith("{"):
        return None, Problem(at, f"{name} is {value!r}, which is not a mapping", "write {NAME: VALUE}")
    try:
        content = foreign_files.read_json(Path(value).expanduser())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        return None, Problem(at, f"{value} cannot be read: {reason}", f"name a JSON file, or write {name} as a mapping")
    except json.JSONDecodeError as error:
        what = f"{value}:{error.lineno} is not JSON: {error.msg}"
        return None, Problem(at, what, "mend the file, or write the mapping itself")
    except foreign_files.Unreadable as error:
        return None, Problem(at, f"{value} cannot be read: {error}", "write the mapping itself")
    if not isinstance(content, dict):
        return None, Problem(at, f"{value} holds no JSON object", "write {NAME: VALUE} into it")
    return content, None


def _of_class(
    name: str, content: Mapping[str, Any], config: str, owners: Mapping[str, str], at: str
) -> Iterator[Problem]:
    """The problems of entries that a config class does not have, that another setting owns, or of the wrong type."""
    fields = fields_of(config)
    for key, value in content.items():
        if key in owners:
            yield Problem(at, f"{name}.{key} is owned by {owners[key]}", f"use {owners[key]}")
        elif key not in fields:
            yield Problem(at, f"{name} has no entry {key}", suggest(str(key), sorted(set(fields) - set(owners)), ""))
        elif not accepts(fields[key].annotation, value):
            yield Problem(at, f"{name}.{key}={value!r} is not of its type", f"give {fields[key].type_text}")


def _accelerator(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    yield from _of_class(name, content, "transformers.trainer_pt_utils:AcceleratorConfig", _ACCELERATOR, at)


def _checkpointing(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    for key, value in content.items():
        kind = _CHECKPOINTING.get(str(key))
        if kind is None:
            yield Problem(at, f"{name} has no entry {key}", suggest(str(key), _CHECKPOINTING, ""))
        elif type(value) is not kind or (isinstance(value, int) and not isinstance(value, bool) and value < 1):
            fix = {bool: "true or false", int: "a whole number, at least 1", str: "default or none"}[kind]
            yield Problem(at, f"{name}.{key}={value!r} is not of its type", f"give {fix}")
        elif key == "determinism_check" and value not in ("default", "none"):
            yield Problem(at, f"{name}.{key}={value} is not one of its values", "give default or none")
    # torch's own default is the old way, which refuses or ignores the first three.
    late = [key for key in ("determinism_check", "debug", "early_stop") if key in content]
    if late and content.get("use_reentrant") is not False:
        what = f"{name}.{late[0]} is read only with use_reentrant=false"
        yield Problem(at, what, "set use_reentrant: false, or remove it")
    if run.trains_adapter and sharding(run.spec.train) == "zero3" and content.get("use_reentrant") is False:
        what = f"{name}.use_reentrant=false: under ZeRO-3 an adapter trains with the older checkpointing only"
        yield Problem(at, what, "remove it: true is then set")
    if content.get("offload") is True and run.spec.launch.device == "cpu":
        what = f"{name}.offload moves activations from a GPU, and this run computes on a CPU"
        yield Problem(at, what, "remove it")


def _fsdp(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    known = keys_read("transformers.training_args", "TrainingArguments._process_fsdp_args", "fsdp_config")
    known = tuple(key for key in known if not key.startswith("xla"))
    # The first version of FSDP takes the name of a strategy there.
    switches = set(_SWITCHES) - ({"reshard_after_forward"} if content.get("version") == 1 else set())
    for key, value in content.items():
        plain = str(key).removeprefix("fsdp_")
        if plain not in known:
            yield Problem(at, f"{name} has no entry {key}", suggest(plain, known, ""))
        elif plain == "version" and value not in (1, 2):
            yield Problem(at, f"{name}.{key}={value!r} is not a version", "leave it out: 2 is the default")
        elif plain == "auto_wrap_policy":
            policies = values_of(literal("accelerate.utils.constants", "FSDP_AUTO_WRAP_POLICY"))
            if value not in policies:
                yield Problem(at, f"{name}.{key}={value} is not a policy", f"choose from {', '.join(policies)}")
        elif plain == "state_dict_type" and value != "FULL_STATE_DICT":
            what = f"{name}.{key}={value} leaves the finished model in pieces, which nothing here loads"
            yield Problem(at, what, "leave it out: FULL_STATE_DICT is the default")
        elif plain == "min_num_params" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            yield Problem(at, f"{name}.{key}={value!r} is not a number of parameters", "give a whole number")
        elif plain in switches and str(value).lower() not in ("true", "false"):
            yield Problem(at, f"{name}.{key}={value!r} is not true or false", "write true or false")


_SWITCHES = ("cpu_offload", "cpu_ram_efficient_loading", "activation_checkpointing", "reshard_after_forward",
             "forward_prefetch", "use_orig_params", "sync_module_states", "limit_all_gathers")  # fmt: skip


def _continuous(name: str, content: Mapping[str, Any], run: ResolvedRun, at: str) -> Iterator[Problem]:
    config = "transformers.generation.configuration_utils:ContinuousBatchingConfig"
    try:
        yield from _of_class(name, content, config, {}, at)
    except LookupError:  # a version without it takes nothing
        yield Problem(at, f"{name} is not known to the installed transformers", "remove it")


RULES: Mapping[str, Inside] = {
    "accelerator": _accelerator,
    "checkpointing": _checkpointing,
    "fsdp": _fsdp,
    "deepspeed": deepspeed,
    "generation": generation.entries,
    "continuous_batching": _continuous,
    "functions": reward_code.problems,
}
