"""What a model class has: its modules, measured on the meta device, and how it takes packed rows.

For architectures that ftcli/models has no table of. No weights are read; a configuration is enough.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN
from transformers.pytorch_utils import Conv1D

from ftcli.models.families import VISITED
from ftcli.models.layout import Layout, Module
from ftcli.worker.models.packing_trial import Trial, small_model, trial_of
from ftcli.worker.models.stored_weights import without_kernels
from ftcli.worker.models.text_models import causal_config

_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "max_position_embeddings", *VISITED, "moe_intermediate_size", "n_shared_experts",
)  # fmt: skip


def measure(config_json: dict[str, Any]) -> dict[str, Any]:
    """The layout of a model's architecture.

    Args:
        config_json: the content of a config.json.

    Returns:
        {"layout": as `Layout.to_data`}, or {"reason": why it cannot be measured}.
    """
    fields = dict(config_json)
    try:
        whole = AutoConfig.for_model(str(fields.pop("model_type", "")), **fields)
        config = causal_config(without_kernels(whole))
        model = on_meta(config)
    except Exception as error:  # a configuration of anyone, for any class: whatever is wrong with it is the answer
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"reason": lines[0][:300]}
    return {"layout": layout_of(model, model.config).to_data()}


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def layout_of(model: PreTrainedModel, config: PreTrainedConfig) -> Layout:
    """Its modules, sizes, and the trial of packing."""
    trial, modules = _trial(config), tuple(modules_of(model))
    stacked = [module.num_stacked for module in modules if module.kind == "experts"]
    return Layout(
        modules=modules,
        sizes=_sizes(model, config) | ({"num_experts": max(stacked)} if stacked else {}),
        sdpa=bool(model._supports_sdpa),
        packs=trial.exact,
        packing=trial.why,
        passes_positions=trial.passes_positions,
        router_loss=has_router_loss(model, config),
        renamed_by_peft=renamed_by_peft(str(config.model_type)),
    )


def renamed_by_peft(model_type: str) -> str:
    """The names of transformers 4 by which PEFT reads the targets of this architecture; "" for its own names."""
    names = "mixtral" if model_type == "mixtral" else _MODEL_TO_CONVERSION_PATTERN.get(model_type)
    return names if names in ("mixtral", "qwen2_moe") else ""


def has_router_loss(model: nn.Module, config: PreTrainedConfig) -> bool:
    """Whether TRL adds the loss of the router to that of the tokens, unless method.router_aux_loss_coef is 0."""
    text = config.get_text_config()
    weighs = hasattr(text, "output_router_logits") and bool(getattr(text, "router_aux_loss_coef", 0.0))
    return weighs and has_router(model)


def has_router(model: nn.Module) -> bool:
    """Whether a model has a router; true where its class does not say.

    A class of mixtures may have none: Doge is dense by default, and so are the small ones of Granite 4.
    """
    recorded = [getattr(part, "_can_record_outputs", None) or {} for part in model.modules()]
    said = [each for names in recorded if (each := names.get("router_logits")) is not None]
    recorders = {id(one): one for each in said for one in (each if isinstance(each, list) else [each])}
    classes = {getattr(one, "target_class", one) for one in recorders.values()}
    return not classes or any(isinstance(part, tuple(classes)) for part in model.modules())


def _trial(config: PreTrainedConfig) -> Trial:
    try:
        return trial_of(small_model(config))
    except ValueError as error:
        return Trial(False, f"it could not be tried: {error}")


def _sizes(model: PreTrainedModel, config: PreTrainedConfig) -> dict[str, Any]:
    text = config.get_text_config()
    found: dict[str, Any] = {"architecture": type(model).__name__}
    for name in _SIZES:
        value = field_of(text, name)
        if isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    weights = [getattr(each, "weight", None) for each in (head, embedding)]
    found["tie_word_embeddings"] = weights[0] is not None and weights[0] is weights[1]
    return found


def field_of(config: PreTrainedConfig, name: str) -> Any:
    """A field of a configuration; None where it has none, or another one in some layers."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers refuses a field that differs by layer
        return None


def modules_of(model: nn.Module) -> list[Module]:
    """Every parameter-bearing module, in the model's order; what two share is counted with the first."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    seen: set[int] = set()
    found: list[Module] = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            found += _of_module(name, module, own, seen, is_head=module is head)
    return found


def _of_module(name: str, module: nn.Module, own: dict[str, Tensor], seen: set[int], *, is_head: bool) -> list[Module]:
    """A module, and the parameters that stand in it beside its weight and bias."""
    weight, bias = own.get("weight"), own.get("bias")
    found = []
    if weight is not None and 0 < len(_shape(weight)) < 3:
        own = {key: value for key, value in own.items() if key not in ("weight", "bias")}
        rest = _bias_beside(weight, bias, module)
        kind, inputs, outputs = _kind(module, weight)
        tied = id(weight) in seen
        own_bias = bias is not None and not rest and id(bias) not in seen
        found.append(Module(name, inputs, outputs, kind, own_bias, tied=tied, head=is_head))
        own |= {"bias": bias} if rest and bias is not None else {}
        seen |= {id(bias)} if bias is not None else set()
        seen.add(id(weight))
    for leaf, value in own.items():
        shape, tied = _shape(value), id(value) in seen
        seen.add(id(value))
        path = f"{name}.{leaf}"
        if _are_experts(path, module, value):
            found.append(Module(path, shape[2], shape[1], "experts", num_stacked=shape[0], tied=tied))
        else:
            found.append(Module(path, 1, math.prod(shape), "parameter", tied=tied))
    return found


def _are_experts(path: str, module: nn.Module, value: Tensor) -> bool:
    """Whether a parameter is the stacked weights of experts.

    Other parameters are stacked too: the attention heads of XLNet, the gates of RecurrentGemma's recurrence. An adapter
    on those would wrap a module whose state its owner sets, and hide that from it.
    """
    if len(_shape(value)) != 3 or _shape(value)[0] < 2 or isinstance(module, nn.modules.conv._ConvNd):
        return False
    # Quantised experts are numbers of another kind, on which no adapter is put.
    return value.is_floating_point() and "expert" in f"{path} {type(module).__name__}".lower()


def _bias_beside(weight: Tensor, bias: Tensor | None, module: nn.Module) -> bool:
    """Whether a bias has another width than the module's outputs, so that it is listed by itself."""
    return bias is not None and math.prod(_shape(bias)) != _kind(module, weight)[2]


def _shape(value: Tensor) -> tuple[int, ...]:
    """The whole shape of a parameter, also where ZeRO-3 has sharded it."""
    return tuple(getattr(value, "ds_shape", value.shape))


def _kind(module: nn.Module, weight: Tensor) -> tuple[str, int, int]:
    """The kind of a module, and its inputs and outputs as PEFT counts them."""
    if isinstance(module, nn.Linear):  # a quantised weight has another shape
        return "linear", module.in_features, module.out_features
    shape = _shape(weight)
    if len(shape) == 1:
        return "norm", 1, shape[0]
    outputs, inputs = shape
    if isinstance(module, Conv1D):
        return "linear", outputs, inputs
    if isinstance(module, nn.Embedding):
        return "embedding", inputs, outputs
    name = type(module).__name__.lower()
    return "router" if "rout" in name or "gate" in name else "other", inputs, outputs


def config_of(folder: Path) -> PreTrainedConfig:
    """The configuration of a model folder, as a run loads it."""
    return causal_config(without_kernels(AutoConfig.from_pretrained(folder, trust_remote_code=False)))
