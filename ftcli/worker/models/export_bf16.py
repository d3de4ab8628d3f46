"""`python -m ftcli.worker.models.export_bf16 RUN FOLDER`: the weights of a full run in bfloat16, for the package."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftcli.runs import rundir


def export(run: Path, folder: Path) -> None:
    """Write the weights of `run` to `folder`, which already holds the configuration and tokenizer."""
    weights = load_file(run / rundir.MODEL / "model.safetensors")
    target = folder / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}, target, metadata={"format": "pt"})
    target.chmod(0o644)  # save_file makes it readable by its owner only, but a package is for everyone


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
