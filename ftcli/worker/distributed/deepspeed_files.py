"""DeepSpeed's checkpoint files, which are pickles: read as tensors and plain values, and never as code.

DeepSpeed asks torch for everything a pickle can do; the worker allows it the weights alone (ftcli/worker/__init__.py).
Beside tensors and numbers its files hold objects of a few classes of its own, which only keep numbers.
"""

from __future__ import annotations

import importlib

import torch

PLAIN = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
"""Module and name of each class in a checkpoint of deepspeed 0.19, of ZeRO 1 to 3 in any precision."""


def allow_plain_classes() -> None:
    """Let torch make the objects of those classes when it reads a file; call it where DeepSpeed is imported anyway."""
    torch.serialization.add_safe_globals([getattr(importlib.import_module(module), name) for module, name in PLAIN])
