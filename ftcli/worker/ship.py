"""`python -m ftcli.worker.ship RUN FOLDER`: the model of a full run in bfloat16, as the package ships it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcli import rundir


def ship(run: Path, folder: Path) -> None:
    """Write weights in bfloat16, configuration, tokenizer and chat template of `run` into `folder`."""
    source = run / rundir.MODEL
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # weights are written for their owner alone, and a package is for everyone


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
