"""`python -m ftcli.worker.models.export_bf16 RUN FOLDER`: the weights of a full run in bfloat16, for the package."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ftcli.runs import rundir
from ftcli.worker.models.rounded_weights import write_rounded


def export(run: Path, folder: Path) -> None:
    """Write the weights of `run` to `folder`, which already holds the configuration and tokenizer."""
    target = folder / "model.safetensors"
    write_rounded(run / rundir.MODEL / "model.safetensors", target, torch.bfloat16)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
