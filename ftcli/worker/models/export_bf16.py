"""`python -m ftcli.worker.models.export_bf16 RUN FOLDER`: the weights of a full run in bfloat16, for the package."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftcli.runs import rundir


def ship(run: Path, folder: Path) -> None:
    """Write the weights of `run` beside the configuration and tokenizer that `folder` holds already."""
    weights = load_file(run / rundir.MODEL / "model.safetensors")
    target = folder / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, target, metadata={"format": "pt"})
    target.chmod(0o644)  # weights are written for their owner alone, and a package is for everyone


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
