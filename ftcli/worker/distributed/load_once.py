"""One process of a machine reads the model that FSDP shards; the others have none of its weights until they are sent.

accelerate sends them from the first process when it shards the model, one parameter after the other: in all processes
they must have the same names, shapes and types, and there must be nothing else to send.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import distributed, nn
from transformers import PreTrainedModel

from ftcli.core.errors import ConfigError, Problem

Layout = list[tuple[str, tuple[int, ...], str]]


def load_once(load: Callable[[bool], PreTrainedModel], *, required: bool) -> tuple[PreTrainedModel, bool]:
    """The model, and whether only the first process of each machine holds its weights.

    Args:
        load: loads the model, or with False all but its weights.
        required: whether the user wants it so, and not otherwise.

    Raises:
        ConfigError: it is required, and FSDP could not send this model.
    """
    reads = os.environ.get("LOCAL_RANK", "0") == "0"  # as transformers tells it
    model = load(reads)
    layouts: list[Layout | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(layouts, layout(model))
    if all(each is not None and each == layouts[0] for each in layouts):
        return model, True
    if required:
        what = "FSDP cannot send this model to the processes that did not read it, since it is more than parameters"
        raise ConfigError(Problem("train.fsdp_config.cpu_ram_efficient_loading", what, "remove it"))
    return (model if reads else load(True)), False


def layout(model: nn.Module) -> Layout | None:
    """Names, shapes and types of a model's parameters, and the sums of its buffers, which are made and not sent; None
    if a buffer is saved with the model, which FSDP cannot send, or was not made."""
    parameters, buffers = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers())
    if model.state_dict().keys() - parameters.keys() or any(each.is_meta for each in buffers.values()):
        return None
    found = [(name, tuple(each.shape), str(each.dtype)) for name, each in parameters.items()]
    return found + [(name, tuple(each.shape), f"{each.double().sum().item()}") for name, each in buffers.items()]


def send(config: Any, once: bool) -> None:
    """Have a trainer's config say whether FSDP sends the weights of its model."""
    if config.fsdp_plugin_args is not None:
        config.fsdp_plugin_args["cpu_ram_efficient_loading"] = once


def as_first(trainer: Any, compute: Callable[[], bool]) -> bool:
    """What this process computes from the weights of the model that trains; where it may have none, what the first
    does. Every process must call this."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None or not plugin.cpu_ram_efficient_loading:
        return compute()
    found = [compute() if trainer.args.process_index == 0 else None]
    broadcast_object_list(found)
    return bool(found[0])
