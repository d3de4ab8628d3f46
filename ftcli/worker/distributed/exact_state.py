"""Training state that the plain Trainer does not restore exactly.

Found on transformers 5.23 by resuming at every step and comparing weights bit for bit:
- a mixture-of-experts model is saved under other names than it has in memory, and loads without its experts;
- an adapter trained in bf16 is restored in fp32, and a prompt encoder not at all;
- PyTorch casts a loaded optimizer state to the parameters' dtype, which loses Adafactor's fp32 state of bf16 weights;
- a sampler that draws from the global or its own generator draws another order when its epoch is entered again, and so
  does accelerate's seedable one if torch was seeded differently before the two starts.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ftcli.core.errors import CheckpointError, ConfigError, Problem

RESUME_OLDER = "remove that checkpoint to resume from the one before it, or start a new run with --from"


class Beside:
    """A trainer's state beyond model, optimizer and schedule that a checkpoint must hold; nothing by default."""

    def state(self) -> dict[str, Any]:
        """This process's state between steps: plain data and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned at the checkpoint."""

    def save(self, folder: Path) -> None:
        """Write further weights into a checkpoint; called in every process, and the first writes what all share."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


def host_rng() -> dict[str, Any]:
    """The state of the generators of Python, numpy and torch's CPU, as plain data and one tensor."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.random.get_rng_state(),
    }


def set_host_rng(state: dict[str, Any]) -> None:
    """Restore what `host_rng` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(state["torch"])


@contextmanager
def rng_untouched() -> Iterator[None]:
    """Restore every random generator afterwards, that of the current accelerator included."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    before = host_rng()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        set_host_rng(before)


def sampler_state(dataloader: Any) -> dict[str, Any]:
    """What determines the order of a data loader's rows besides the epoch: a seed, or a generator that advances.

    accelerate's sampler takes its seed from torch's current one, which may differ before and after a resume.
    """
    sampler = _sampler(dataloader)
    generator = getattr(sampler, "generator", None)
    return {
        "seed": getattr(sampler, "initial_seed", None),
        "generator": generator.get_state() if isinstance(generator, torch.Generator) else None,
    }


def put_sampler_state(dataloader: Any, state: dict[str, Any]) -> None:
    """Restore what `sampler_state` returned."""
    sampler = _sampler(dataloader)
    if state["seed"] is not None and hasattr(sampler, "initial_seed"):
        sampler.initial_seed = state["seed"]
    generator = getattr(sampler, "generator", None)
    if isinstance(generator, torch.Generator) and state["generator"] is not None:
        generator.set_state(state["generator"])


def _sampler(dataloader: Any) -> Any:
    get_sampler = getattr(dataloader, "get_sampler", None)
    return get_sampler() if get_sampler else None


def adapter_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of a PEFT model that its base does not have or that is trained, by its name in memory.

    PEFT's own state dict is not enough for an exact resume: for P-tuning, for example, it only holds the encoder's
    output.
    """
    adapters = set(getattr(model, "peft_config", {}))
    # Tied weights appear under each of their names, so that loading need not know which one was saved.
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in named if tensor.requires_grad or adapters & set(name.split("."))}


def put_adapter_tensors(model: nn.Module, saved: dict[str, torch.Tensor], where: Path) -> None:
    """Copy saved adapter tensors into the model, each in its own dtype.

    Raises:
        ConfigError: the model's adapter has other tensors, shapes or dtypes than the saved one.
    """
    own = adapter_tensors(model)
    odd = sorted(own.keys() ^ saved.keys())
    odd += [
        name
        for name in own.keys() & saved.keys()
        if (own[name].shape, own[name].dtype) != (saved[name].shape, saved[name].dtype)
    ]
    if odd:
        what = f"{len(odd)} tensors of the saved adapter do not match this run's adapter, the first is {odd[0]}"
        raise ConfigError(
            Problem(str(where), what, "resume with the settings of the run, or start a new run with --from")
        )
    with torch.no_grad():
        for name, tensor in saved.items():
            own[name].copy_(tensor)


def unloaded(model: nn.Module, missing: list[str]) -> list[str]:
    """The missing names of a load that really stayed unloaded: those not tied to a weight that was loaded."""
    own = model.state_dict()
    # Tied weights share their memory, so a missing name with a loaded address is loaded after all.
    loaded = {tensor.data_ptr() for name, tensor in own.items() if name not in set(missing)}
    return [name for name in missing if name in own and own[name].data_ptr() not in loaded]


def load_renamed(model: PreTrainedModel, path: Path) -> None:
    """Load weights that were saved under other names than the model has in memory, as transformers itself would.

    Raises:
        ConfigError: the folder does not hold all weights of this model.
    """
    # from_pretrained knows the renaming of this architecture, but only for a model of its own: load one, then copy.
    kinds = {parameter.dtype for parameter in model.parameters()}
    # What trains may be held in float32 beside frozen weights in a shorter type; `copy_` rounds these as they were.
    widest = torch.float32 if torch.float32 in kinds else model.dtype
    # With the configuration in memory: that of the folder could name a kernel of the hub.
    how: dict[str, Any] = {"config": copy.deepcopy(model.config), "dtype": widest, "local_files_only": True}
    fresh, report = type(model).from_pretrained(path, **how, output_loading_info=True)
    missing = unloaded(fresh, sorted(report["missing_keys"])) or unloaded(
        model, list(model.load_state_dict(fresh.state_dict(), strict=False).missing_keys)
    )
    if missing:
        what = f"has no weight for {len(missing)} tensors of the model, the first is {missing[0]}"
        raise CheckpointError(Problem(str(path), what, RESUME_OLDER))


def put_optimizer_dtypes(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Restore the dtypes in which an optimizer state was saved."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(parameter.dtype == torch.float32 for parameter in parameters):
        return
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["state"]
    for index, parameter in enumerate(parameters):
        state = optimizer.state.get(parameter, {})
        for key, tensor in saved.get(index, {}).items():
            if isinstance(tensor, torch.Tensor) and key in state and state[key].dtype != tensor.dtype:
                state[key] = tensor.to(state[key].device)
