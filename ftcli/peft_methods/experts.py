"""What `target_modules: all-linear` means in a mixture of experts: the experts too, and not the router.

transformers keeps the experts of a layer as one stacked parameter, which is no linear layer, so PEFT's own all-linear
passes it by, or, for some architectures, takes it and the router in place of the shared experts. The front half counts
by this, and the worker resolves by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftcli.models.layout import Module
from ftcli.peft_methods.routers import is_adapted, routers_of
from ftcli.peft_methods.target_modules import is_excluded

ALL_LINEAR = "all-linear"
# Layers whose weight the layer above them reads itself, so that an adapter on them would do nothing until it is merged,
# or has the wrong shape; PEFT refuses the first.
_READ_ITSELF = {
    "out_proj": frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}),
    "dt_proj": frozenset({"falcon_mamba", "jamba", "mamba", "zamba"}),
    "o_a_proj": frozenset({"deepseek_v4"}),  # multiplies each group of heads by a block of the weight
}
# Names that PEFT takes for those of single experts, as transformers 4 had them, in architectures that it converts.
_OLD_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


@dataclass(frozen=True)
class Reach:
    """The modules that all-linear adapts."""

    linear: tuple[Module, ...]
    """Linear layers, which PEFT takes as target_modules."""
    parameters: tuple[Module, ...]
    """Stacked experts, and linear layers whose names PEFT would take for theirs: PEFT's target_parameters."""
    left_out: tuple[Module, ...]
    """Experts and linear layers that it does not reach."""
    read_itself: tuple[Module, ...] = ()
    """Linear layers that the architecture does not call, but reads the weight of."""

    @property
    def target_parameters(self) -> list[str]:
        """The parameters by full name."""
        return [each.name if each.kind == "experts" else f"{each.name}.weight" for each in self.parameters]


def is_all_linear(settings: Mapping[str, Any]) -> bool:
    """Whether the settings ask for all linear layers."""
    return str(settings.get("target_modules")).lower() == ALL_LINEAR


def why_no_experts(settings: Mapping[str, Any]) -> str | None:
    """Why LoRA cannot adapt stacked parameters under these settings; None where it can."""
    for name in ("lora_dropout", "use_dora", "lora_bias"):
        if settings.get(name):
            return f"PEFT adapts stacked parameters without {name} only"
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in ("gaussian", "true"):
        return f"PEFT adapts stacked parameters without init_lora_weights={start} only"
    return None


def reach(
    modules: Sequence[Module], settings: Mapping[str, Any], *, renamed: bool, stacked: bool = True, model_type: str = ""
) -> Reach | None:
    """What all-linear adapts in a model; None where PEFT's own all-linear does the same.

    Args:
        renamed: whether PEFT reads targets by the names of transformers 4.
        stacked: whether the tuner adapts stacked parameters at all; LoRA alone does.
        model_type: of the model's configuration.
    """
    excluded = settings.get("exclude_modules")
    experts = [m for m in modules if m.kind == "experts" and not is_excluded(m.name, excluded)]
    routers = {module.name for module in routers_of(modules)}
    barred = {m.name for m in modules if stacked and model_type in _READ_ITSELF.get(m.leaf, ())}
    if not is_all_linear(settings) or not (barred or routers or any(m.kind == "experts" for m in modules)):
        return None
    read_itself = tuple(module for module in modules if module.name in barred)
    linear = [
        m for m in modules if is_adapted(m) and m.name not in routers | barred and not is_excluded(m.name, excluded)
    ]
    ambiguous = [module for module in linear if renamed and stacked and module.leaf in _OLD_NAMES]
    plain = tuple(module for module in linear if module not in ambiguous)
    if not stacked or settings.get("target_parameters") or why_no_experts(settings):
        return Reach(plain, (), (*experts, *ambiguous), read_itself)
    return Reach(plain, (*experts, *ambiguous), (), read_itself)
