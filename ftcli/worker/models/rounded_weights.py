"""Weights in a file, rounded to a shorter type."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftcli.runs.file_modes import as_created


def write_rounded(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Write the tensors of a safetensors file with every floating-point one as `dtype`; both may be the same file."""
    weights = load_file(source)
    rounded = {name: each.to(dtype) if each.is_floating_point() else each for name, each in weights.items()}
    # Beside it first: a tensor that already has the type is still read from the source while it is written.
    staging = target.with_name(f".{target.name}")
    save_file(rounded, staging, metadata={"format": "pt"})
    as_created([staging])
    os.replace(staging, target)
