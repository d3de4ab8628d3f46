"""The trained model, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs.checkpoints import publish, staging_path, write_manifest
from ftcli.runs.model_card import CARD
from ftcli.worker.models.rounded_weights import write_rounded
from ftcli.worker.training.checkpoint import unpickled

ADAPTER_CONFIG = "adapter_config.json"
_SETS = ("target_modules", "exclude_modules")


def save_final(trainer: Any, path: Path, dtype: torch.dtype | None = None) -> None:
    """Write the trained model and its tokenizer to `path`, whole or not at all; every process must call this.

    Args:
        dtype: the type in which a whole model is stored, where it was trained in a wider one; None: as it is.

    Raises:
        ConfigError: the sharding configuration does not gather the weights.
    """
    staging = staging_path(path.parent, path.name)
    try:
        _save(trainer, staging, path, dtype)
    except Exception:  # as where the disk is full
        if trainer.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
        raise


def _save(trainer: Any, staging: Path, path: Path, dtype: torch.dtype | None) -> None:
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
        in_order(staging)
        if dtype is not None and not (staging / ADAPTER_CONFIG).is_file():
            store_as(staging, dtype)
        (staging / CARD).unlink(missing_ok=True)  # PEFT's empty one: the run writes its own when its result is known
        write_manifest(staging)
        publish(staging, path)
    trainer.accelerator.wait_for_everyone()


def in_order(folder: Path) -> None:
    """Sort what PEFT holds as sets in the configuration of an adapter, if it is one.

    Python orders the words of a set anew in each process, and the same run would be saved as other bytes.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {name: sorted(values[name]) for name in _SETS if isinstance(values.get(name), list)}
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def store_as(folder: Path, dtype: torch.dtype) -> None:
    """Round the weights in the files of a model to `dtype`, and say so in its configuration."""
    for file in sorted(folder.glob("*.safetensors")):
        write_rounded(file, file, dtype)
    index = folder / "model.safetensors.index.json"
    if index.is_file():  # its total size is no longer true
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["metadata"]["total_size"] = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        index.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    config = folder / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
