"""LoRA that starts from the run's own rows (EVA, CorDA, LoRA-GA) or from what quantisation left out (LoftQ).

PEFT has functions for each, to be called by hand around a model. Here the trainer is made first, with a plain LoRA that
changes nothing yet; then rows pass through the trainer's own collator and loss, so that packing, masks and the method's
loss are those of the run (layer_statistics.py). What is found is written to the run directory, and a resumed run reads
it there: it starts from the same numbers and looks at no rows again.

LoftQ starts, one round, from what bitsandbytes really left out, so that its adapter fits the base as everybody
quantises it; PEFT's own replaces the base by weights in full precision. It divides by the adapter's scale, so that the
start is the best approximation of the unquantised model (Li et al. 2023, arXiv:2310.08659, eq. 8).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from peft import EvaConfig, initialize_lora_eva_weights
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ftcli.peft_methods.initialisations import INITIALISATIONS, InitialisationSettings, initialisation
from ftcli.runs import rundir
from ftcli.runs.file_modes import as_created
from ftcli.worker.tuners import layer_statistics
from ftcli.worker.tuners.layer_statistics import ADAPTER, Start, lora_layers
from ftcli.worker.tuners.residual import Residual

_EVA, _LOFTQ = INITIALISATIONS["eva"], INITIALISATIONS["loftq"]


class Initialised(Residual):
    """Leaves alone the initialisations that PEFT computes from the weights by itself."""

    _found: Start | None = None
    _options: dict[str, Any] | None = None
    """The initialisation's own options; None where PEFT computes it by itself."""

    def config_values(self, values: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        """As Support: a plain LoRA where the start is put into it later."""
        chosen = initialisation(self.settings)
        if not chosen.looks_at and chosen is not _LOFTQ:
            return values
        self._options = values.get(chosen.config) or {}
        return {key: value for key, value in values.items() if key != chosen.config} | {"init_lora_weights": True}

    def trainer_made(self, trainer: Any) -> None:
        """Find the start, or read it, and put it into the adapter and the base.

        Raises:
            ConfigError: the rows do not suffice for it.
        """
        if self._options is not None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            path = Path(trainer.args.output_dir).parent / rundir.INITIALISATION
            self._found = load_file(path) if path.is_file() else self._find(trainer, model)
            if trainer.args.process_index == 0 and not path.is_file():
                _write(self._found, path)
            if initialisation(self.settings) is _EVA:
                _spread(model, self._found, self._options)
            else:
                _put(model, self._found)
            if initialisation(self.settings).moves_base:
                take_out(model, self._found)
        super().trainer_made(trainer)

    def write(self, folder: Path) -> None:
        """Keep LoftQ's start beside its adapter: on the unquantised base nothing is missing (see `take_out`)."""
        if initialisation(self.settings) is _LOFTQ and self._found is not None:
            save_file(self._found, folder / rundir.INITIALISATION)

    def _find(self, trainer: Any, model: Any) -> Start:
        """The start, the same on all processes."""
        rows = int(self.settings.get("init_rows") or InitialisationSettings().init_rows)
        if initialisation(self.settings) is _LOFTQ:
            found = self._left_out(model)
        else:
            name = str(self.settings["init_lora_weights"])
            found = layer_statistics.find(name, trainer, model, rows, self._options or {})
        result = [found]
        if trainer.args.world_size > 1:
            broadcast_object_list(result)
        return result[0]

    def _left_out(self, model: Any) -> Start:
        """The best approximation, in the adapter's rank, of what the quantised weights lack."""
        assert self.load_unquantised is not None
        whole, found = self.load_unquantised(), Start()
        for name, layer in lora_layers(model):
            original = whole.get_submodule(name)
            weight = original.weight.detach().float()
            weight = weight.T if isinstance(original, Conv1D) else weight
            lacking = weight - dequantize_module_weight(layer.get_base_layer()).detach().float().cpu()
            left, values, right = torch.linalg.svd(lacking, full_matrices=False)
            rank = layer.r[ADAPTER]
            root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
            found[f"{name}.lora_A"] = (root[:, None] * right[:rank]).contiguous()
            found[f"{name}.lora_B"] = (left[:, :rank] * root).contiguous()
        return found


def _write(start: Start, path: Path) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(start, staging)
    as_created([staging])
    os.replace(staging, path)


def _put(model: Any, start: Start) -> None:
    """Copy a start into the adapter's matrices; a layer that it does not name keeps its own."""
    with torch.no_grad():
        for name, layer in lora_layers(model):
            if f"{name}.lora_A" in start:
                layer.lora_A[ADAPTER].weight.copy_(start[f"{name}.lora_A"])
                layer.lora_B[ADAPTER].weight.copy_(start[f"{name}.lora_B"])


def take_out(model: Any, start: Start, adapter: str = ADAPTER) -> None:
    """Subtract from the base weights what a start added to them through the adapter, s·B₀A₀."""
    with torch.no_grad():
        for name, layer in lora_layers(model, adapter):
            if f"{name}.lora_A" not in start:
                continue
            weight = layer.get_base_layer().weight
            first, second = (start[f"{name}.{part}"].to(weight.device) for part in ("lora_A", "lora_B"))
            added = layer.scaling[adapter] * (second @ first)
            whole = weight.float() - (added.T if isinstance(layer.get_base_layer(), Conv1D) else added)
            weight.data = whole.to(weight.dtype)


def _spread(model: Any, start: Start, options: dict[str, Any]) -> None:
    """Give each layer the rank that EVA found for it, and the directions found; a layer of rank 0 loses its adapter."""
    config = model.peft_config[ADAPTER]
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(**options)
    found = {f"base_model.model.{name.removesuffix('.lora_A')}": tensor for name, tensor in start.items()}
    initialize_lora_eva_weights(model, eva_state_dict=found)
    config.init_lora_weights, config.eva_config = True, None
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for matrices in (layer.lora_A, layer.lora_B):
                # A layer of a new rank has its matrices in the base's type, in which small updates vanish.
                matrices.float()
    config.target_modules = set(config.target_modules)


def start_beside(folder: Path) -> dict[str, Tensor] | None:
    """LoftQ's start in the folder of a saved adapter, or None."""
    path = folder / rundir.INITIALISATION
    return load_file(path) if path.is_file() else None
