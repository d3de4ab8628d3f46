"""A model with everything but its weights: names, shapes, types and buffers, as the others of its run have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

SWITCH = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""What transformers and accelerate read, at each load, and what accelerate writes when a trainer is made."""
NOWHERE: dict[str, Any] = {"device_map": {"": "meta"}}
"""Where from_pretrained puts weights that are not read: every conversion is still gone through, by shape."""


def switch_off() -> None:
    """Let transformers load every model whole, also in processes that hold no weights of the one that trains."""
    if SWITCH in os.environ:
        os.environ[SWITCH] = "false"


@contextmanager
def unread() -> Iterator[None]:
    """Make from_pretrained leave weights that are in no file as empty as the others, and compute the buffers that are
    in none."""
    before = {name: os.environ.get(name) for name in (SWITCH, "ACCELERATE_USE_FSDP")}
    os.environ.update(dict.fromkeys(before, "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def hold_nothing(model: PreTrainedModel) -> PreTrainedModel:
    """The model, each of its weights in memory that is never written to, which a system only counts then.

    Each begins with NaN, so that what is computed from it by mistake is seen. On the meta device they would all have
    one address, by which accelerate tells the weights in an optimiser; and seen through strides of 0, one number for a
    whole weight, FSDP would not copy their shares out of what it was sent.
    """
    held: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                module._parameters[name] = held.setdefault(id(own), nn.Parameter(_unwritten(own), own.requires_grad))
    return model


def _unwritten(like: Tensor) -> Tensor:
    found = torch.empty_like(like, device="cpu")
    found.view(-1)[:1] = torch.nan
    return found


def is_unread(model: nn.Module) -> bool:
    """Whether the weights of the model are such."""
    return all(bool(each.detach().view(-1)[:1].isnan().all()) for each in model.parameters())
