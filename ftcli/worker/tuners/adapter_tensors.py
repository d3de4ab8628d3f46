"""Loading every tensor of an adapter or none: PEFT leaves out what it cannot place, with a warning at most.

PEFT renames the tensors of an adapter as transformers renames those of a model that an older version stored. Some of
its patterns match names that are the model's own, too (Laguna's `mlp.shared_expert.` matches `mlp.shared_experts`), and
what they make of those is in no model, so the layers stay as they were initialised. A tensor under the model's own name
is loaded here as it is.

Merging adds an adapter to the weights below it, so a weight that other layers share changes for all of them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.save_and_load import load_peft_weights
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from torch import Tensor

from ftcli.core.errors import ConfigError, Problem

_SHOWN = 3
"""Layers named in an error."""

Tensors = Mapping[str, Tensor]


def load_whole(base: Any, folder: Path, name: str) -> Any:
    """A saved adapter on its base, as a PeftModel.

    Raises:
        ConfigError: a tensor of the file has no place in the model, or a layer of the adapter is not in the file.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # which are looked after here
        model = PeftModel.from_pretrained(base, str(folder), adapter_name=name)
    complete(model, load_peft_weights(str(folder), device="cpu"), name, str(folder))
    return model


def complete(model: Any, tensors: Tensors, name: str, source: str) -> None:
    """Load what PEFT left out of an adapter's tensors.

    Args:
        model: a PeftModel, into which PEFT has loaded them.
        tensors: as in an adapter's file.
        name: of the adapter in the model.
        source: what the tensors belong to, for errors.

    Raises:
        ConfigError: a tensor has no place in the model, or a layer of the adapter has no tensor.
    """
    if model.peft_config[name].is_prompt_learning:  # whose one tensor PEFT computes from its encoder's
        return
    own = _own_names(model, name)
    converted = _renamed(model, {key: tensor for key, tensor in tensors.items() if key not in own}, name)
    state = model.state_dict()
    unplaced = sorted(key for key in converted if key not in own and _in_model(key, state, name) is None)
    unfilled = sorted(own - tensors.keys() - converted.keys())
    if unplaced or unfilled:
        raise ConfigError(_incomplete(source, unplaced, unfilled))
    for key in lost_by_peft(model, tensors, name):
        place = _in_model(key, state, name)
        assert place is not None, key
        with torch.no_grad():
            state[place].copy_(tensors[key])


def lost_by_peft(model: Any, tensors: Tensors, name: str) -> list[str]:
    """The tensors of an adapter, under the names of the model, that PEFT alone does not load."""
    return sorted(tensors.keys() & _own_names(model, name) - _renamed(model, tensors, name).keys())


def merged(model: Any, source: str, fix: str, **how: Any) -> Any:
    """The base of a PeftModel with the adapter merged into it.

    Args:
        source: what is merged, for errors.
        fix: what can be done where it cannot be merged.
        how: arguments of PEFT's `merge_and_unload`.

    Raises:
        ConfigError: it adapts a layer whose weight others share.
    """
    if shared := _shared_layer(model):
        what = f"cannot be merged: it adapts {shared}, whose weight other layers share and would get too"
        raise ConfigError(Problem(source, what, fix))
    return model.merge_and_unload(**how)


def _shared_layer(model: Any) -> str | None:
    """The first layer that an adapter changes and whose weight is another layer's, too."""
    holders = Counter(id(own) for part in model.modules() for own in part._parameters.values() if own is not None)
    for name, layer in model.get_base_model().named_modules():
        # What is trained of the rows of tokens, PEFT ties itself.
        if not isinstance(layer, BaseTunerLayer) or isinstance(layer, TrainableTokensLayer):
            continue
        if any(holders[id(own)] > 1 for own in layer.get_base_layer()._parameters.values() if own is not None):
            return str(name)
    return None


def _own_names(model: Any, name: str) -> set[str]:
    """The names under which an adapter of the model is saved."""
    return set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))


def _renamed(model: Any, tensors: Tensors, name: str) -> dict[str, Tensor]:
    """The tensors under the names that PEFT gives them before it loads them."""
    if not tensors or not hasattr(getattr(model, "config", None), "model_type"):
        return dict(tensors)
    found: dict[str, Tensor] = convert_peft_adapter_state_dict_for_transformers(
        model, model.peft_config[name], dict(tensors), name
    )
    return found


def _in_model(key: str, state: Tensors, name: str) -> str | None:
    """Where the model holds a tensor of an adapter's file, which does not have the adapter's name in its names."""
    head, _, leaf = key.rpartition(".")
    places = (f"{head}.{name}.{leaf}", f"{key}.{name}", f"{key}.{name}.weight", key)
    return next((place for place in places if place in state), None)


def _incomplete(source: str, unplaced: list[str], unfilled: list[str]) -> Problem:
    parts = []
    if unplaced:
        parts.append(f"{len(unplaced)} of its tensors have no place in the model, such as {_some(unplaced)}")
    if unfilled:
        parts.append(f"the model's adapter would lack {len(unfilled)} tensors, such as {_some(unfilled)}")
    fix = "load it on the base that it was trained on, with the versions of peft and transformers that it was saved by"
    return Problem(source, f"the adapter cannot be loaded whole: {'; '.join(parts)}", fix)


def _some(names: list[str]) -> str:
    return ", ".join(name.removeprefix("base_model.model.") for name in names[:_SHOWN])
