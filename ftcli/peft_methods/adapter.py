"""Bottleneck adapters: small networks between the layers (Houlsby et al. 2019; Pfeiffer et al. 2021).

PEFT has none, so the tuner is ours (ftcli/worker/tuners/bottleneck).
"""

from __future__ import annotations

from collections.abc import Mapping

from ftcli.models.layout import Module
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import (
    Settings,
    adapter_parameters,
    is_unknown,
    linear,
    refuse_layers_of_a_pattern,
)
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit
from ftcli.settings.sourced_defaults import Default

BOTTLENECKS: Mapping[str, tuple[str, str]] = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
}
"""Modules that bottleneck adapters follow, by the layout's builder: the last layer of attention and feed-forward."""


def count(shape: Shape, settings: Settings) -> int | None:
    """2·d·m + d + m for each adapter (Houlsby et al. 2019, arXiv:1902.00751, section 2.1); two per layer, or one."""
    if shape.experts is not None and settings.get("target_modules") is None:
        raise ValueError(f"{shape.architecture} has experts in its feed-forward; set target_modules")
    if is_unknown(shape, settings):
        return None
    refuse_layers_of_a_pattern(settings.get("target_modules"), settings.get("layers_to_transform"))
    both = BOTTLENECKS[shape.family.builder if shape.family else "llama"]
    default = both[1:] if settings.get("placement") == "pfeiffer" else both
    size, factor = settings.get("bottleneck_size"), settings.get("reduction_factor")

    def adapter(module: Module) -> int:
        width = module.in_features if module.kind == "embedding" else module.out_features
        inner = int(size) if size else max(1, int(width / float(16 if factor is None else factor)))
        return linear(width, inner) + linear(inner, width)

    return adapter_parameters(shape, settings, adapter, default, kinds=("linear", "embedding"))


METHODS = (
    PeftMethod(
        name="adapter",
        kind="BOTTLENECK",
        summary="Bottleneck layers after attention and feed-forward: the first adapters, for many tasks on one base.",
        paper="Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247",
        config="ftcli.worker.tuners.bottleneck.config:BottleneckConfig",
        limits={
            "reduction_factor": Limit(low=0, open_low=True),
            "bottleneck_size": Limit(low=1),
            "dropout": BELOW_ONE,
        },
        count=count,
        sources={
            "reduction_factor": Default(value=16.0, source="Pfeiffer et al. 2021: 16; Houlsby et al. 2019: width 64")
        },
        rate_factor=Default(
            value=1,
            source="LLM-Adapters (arXiv:2304.01933): LoRA's rate for bottleneck adapters too",
            measured="benchmarks/adapters.py: 0.005, 1.7 times LoRA's",
        ),
        never_merges="a nonlinearity between its two projections cannot be expressed as one matrix",
    ),
)
