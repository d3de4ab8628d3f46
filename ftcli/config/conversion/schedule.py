"""How long a run is, when it measures and saves, and what steps it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.config.conversion.common import each
from ftcli.config.conversion.draft import OFF, Draft
from ftcli.config.conversion.table import put

_EIGHT_BIT = {"adamw_8bit": "adamw_bnb_8bit", "adamw_torch_8bit": "adamw_bnb_8bit",
              "adamw_torch_4bit": "adamw_bnb_8bit"}  # fmt: skip
"""Optimisers that need a package of their own, and the one that quantisation needs anyway."""

_MEASURING = (
    "eval_strategy evaluation_strategy eval_steps eval_batch_size per_device_eval_batch_size eval_delay "
    "evals_per_epoch eval_table_size eval_sample_packing eval_packing do_eval bf16_full_eval eval_on_start"
)


def checkpointing(draft: Draft, default: bool = False) -> None:
    """Activation checkpointing, and its arguments.

    Args:
        default: whether the tool has it on where the file says nothing.
    """
    on = default and draft.get("gradient_checkpointing") is None
    if on:
        draft.default("train.gradient_checkpointing", True, "on by default there")
    for key in each(draft, "gradient_checkpointing"):
        on = key.value is True or str(key.value).startswith("offload")
        if key.value is True or key.value is False:
            put(draft, key, "train.gradient_checkpointing", key.value)
        elif on:
            draft.put("train.gradient_checkpointing", True)
            draft.changed(key, "train.gradient_checkpointing=true", "activations are computed again, not moved away")
        else:
            draft.mapped(key, why="derived: on for GPUs")
    for key in [k for k in draft.keys if k.name.startswith("gradient_checkpointing_kwargs")]:
        if key.value is None or key.inside:
            continue
        if on:
            kwargs = draft.get("gradient_checkpointing_kwargs", {})
            draft.put("train.gradient_checkpointing_kwargs", kwargs)
            draft.mapped(key, "train.gradient_checkpointing_kwargs")
        else:
            draft.silent(key, "gradient_checkpointing is not on, so its arguments do nothing")


def cadence(draft: Draft, held_out: bool) -> None:
    """When a run measures, saves and logs."""
    strategy = str(draft.get("save_strategy", "")).lower()
    for key in each(draft, "save_steps"):
        if strategy in ("no", "false", "epoch", "best"):
            draft.silent(key, f"save_strategy is {strategy}, so it does nothing")
    for key in each(draft, "save_strategy"):
        put(draft, key, "train.save_strategy", {"false": "no"}.get(strategy, strategy))
    for key in each(draft, _MEASURING):
        if not held_out:
            if key.value in OFF:
                draft.mapped(key, why="nothing is held out, so nothing is measured")
            else:
                draft.silent(key, "nothing is held out, so nothing is measured")
    measured = str(draft.get("eval_strategy", draft.get("evaluation_strategy", ""))).lower()
    for key in each(draft, "eval_strategy evaluation_strategy"):
        put(draft, key, "train.eval_strategy", {"false": "no", "true": "epoch"}.get(measured, measured))
    for key in each(draft, "eval_steps"):
        if measured in ("no", "false", "epoch"):
            draft.silent(key, f"eval_strategy is {measured}, so it does nothing")
        elif key.path not in draft.entries:
            draft.put("train.eval_strategy", "steps")


def per_epoch(draft: Draft, name: str, setting: str, epochs: Any) -> None:
    """So many measurements or checkpoints an epoch, as a share of the whole run."""
    for key in each(draft, name):
        if key.path in draft.entries:
            continue
        times = key.value if isinstance(key.value, (int, float)) else 0
        count = times * (epochs if isinstance(epochs, (int, float)) and epochs > 0 else 1)
        if times <= 0:
            draft.mapped(key, why="off")
            draft.put(f"train.{setting}_strategy", "no")
        elif count <= 1 or times == 1:
            draft.put(f"train.{setting}_strategy", "epoch")
            draft.mapped(key, f"train.{setting}_strategy=epoch")
        else:
            share = round(1 / count, 4)
            draft.put(f"train.{setting}_strategy", "steps")
            draft.put(f"train.{setting}_steps", share)
            draft.mapped(key, f"train.{setting}_steps={share}", "a share of the run")


def optimiser(draft: Draft, name: str, named: Mapping[str, str] | None = None) -> None:
    """The optimiser; a paged one by its plain twin, which computes the same on any machine."""
    for key in each(draft, name):
        value = named.get(str(key.value), str(key.value)) if named else str(key.value)
        twin = {"paged_adamw": "adamw_torch", "paged_adamw_32bit": "adamw_torch"}.get(
            value, value.removeprefix("paged_")
        )
        twin = _EIGHT_BIT.get(twin, twin)
        if twin == value or not draft.has("train.optim"):
            put(draft, key, "train.optim", value)
        elif value in _EIGHT_BIT and not value.startswith("paged_"):
            draft.put("train.optim", twin)
            draft.changed(key, f"train.optim={twin}", "its states in 8 bits by bitsandbytes, not by torchao")
        else:
            draft.put("train.optim", twin)
            draft.changed(key, f"train.optim={twin}", "the same numbers; its state is not paged to the CPU's memory")


def length_of_run(draft: Draft) -> None:
    """Steps go before epochs."""
    for key in each(draft, "max_steps"):
        if isinstance(key.value, int) and key.value <= 0:
            draft.mapped(key, why="epochs decide")
    if by_steps(draft):
        for key in each(draft, "num_train_epochs num_epochs"):
            draft.silent(key, "max_steps is set, and goes first")


def by_steps(draft: Draft) -> bool:
    """Whether a number of steps says how long the run is."""
    steps = draft.get("max_steps")
    return isinstance(steps, int) and steps > 0
