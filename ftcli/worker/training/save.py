"""The trained model, written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs.checkpoints import publish, staging_path
from ftcli.worker.training.checkpoint import unpickled


def save_final(trainer: Any, path: Path) -> None:
    """Write the trained model and its tokenizer to `path`, whole or not at all; every process must call this.

    Raises:
        ConfigError: the sharding configuration does not gather the weights.
    """
    staging = staging_path(path.parent, path.name)
    if trainer.is_world_process_zero():
        shutil.rmtree(staging, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    # A prompt encoder is saved as its output, and an LSTM computes different bits while gradients are kept.
    with torch.no_grad(), unpickled(trainer.args):
        trainer.save_model(str(staging), _internal_call=True)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if not any([*staging.glob("*.safetensors"), *staging.glob("*.bin")]):
            what = "the trained weights are still sharded over the processes, so there is no model to save"
            raise ConfigError(Problem(str(path), what, "configure the sharding to gather the full state dict"))
        trainer.support.write(staging)
        publish(staging, path)
    trainer.accelerator.wait_for_everyone()
