"""Resolving `target_modules: all-linear` in a mixture of experts, as the planner counted it."""

from __future__ import annotations

from typing import Any

from peft import PeftType
from transformers import PreTrainedModel

from ftcli.peft_methods.experts import reach
from ftcli.worker.models.architecture import modules_of, renamed_by_peft


def reach_experts(config: Any, model: PreTrainedModel) -> None:
    """Write into an adapter's config which layers and stacked parameters it adapts, where PEFT would choose others.

    Args:
        config: the PEFT config of a run, or None.
        model: the bare model.
    """
    if config is None or not hasattr(config, "target_modules"):
        return
    settings = vars(config)
    reached = reach(
        modules_of(model),
        settings,
        renamed=bool(renamed_by_peft(str(model.config.model_type))),
        stacked=config.peft_type == PeftType.LORA,
        model_type=str(model.config.model_type),
    )
    if reached is None:
        return
    config.target_modules = {module.name for module in reached.linear}
    if reached.parameters:
        config.target_parameters = reached.target_parameters
