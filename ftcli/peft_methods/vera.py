"""Vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454).

The random matrices are saved with the adapter, so that it gives the same result on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import Settings, adapter_parameters, whole_number
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit
from ftcli.settings.sharding import FSDP
from ftcli.settings.sourced_defaults import Default

CONFIG = "peft.tuners.vera.config:VeraConfig"

# PEFT's own targets by the model's type, where they differ from LoRA's (peft/utils/constants.py, 0.21).
TARGETS: Mapping[str, Sequence[str]] = {"phi": ("q_proj", "v_proj")}


def count(shape: Shape, settings: Settings) -> int | None:
    """Two vectors per module, r + out; the matrices between them are frozen (arXiv:2310.11454, section 3.2)."""
    rank = whole_number(settings, "r", CONFIG)
    return adapter_parameters(shape, settings, lambda module: rank + module.out_features, TARGETS.get(shape.model_type))


METHODS = (
    PeftMethod(
        name="vera",
        kind="VERA",
        summary="Two vectors per layer around shared random matrices: very small adapters, many for one base.",
        paper="Kopiczko et al. 2024, arXiv:2310.11454",
        config=CONFIG,
        defaults={"r": 256, "target_modules": "all-linear", "save_projection": True},
        limits={"r": Limit(low=1), "vera_dropout": BELOW_ONE, "d_initial": Limit(low=0, open_low=True)},
        count=count,
        sources={"r": Default(value=256, source="Kopiczko et al. 2024, table 3: 256 for Llama 2 7B and 13B")},
        rate_factor=Default(
            value=10,
            source="Kopiczko et al. 2024, appendix A, Llama 2: 4e-3 where LoRA has 4e-4; PEFT's comparison on "
            "MetaMathQA: 1e-3 to LoRA's 1e-4",
            measured="benchmarks/adapters.py: 0.02, 7 times LoRA's",
        ),
        never_shards=lambda layout, settings: (
            "all layers share its random matrices, which FSDP cannot write to a checkpoint" if layout == FSDP else ""
        ),
    ),
)
