"""The parameter-efficient methods: one row or file each, declared like the training methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.methods.base import Knob


@dataclass(frozen=True, kw_only=True)
class PeftMethod:
    """One way to train few parameters. `config` is the PEFT config class as `module:Class`."""

    name: str
    summary: str
    config: str
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Knob] = field(default_factory=dict)
    merges: bool = True
    """Whether its update can be folded into the base weights."""


PEFT_METHODS: dict[str, PeftMethod] = {
    method.name: method
    for method in (
        PeftMethod(
            name="lora",
            summary="Low-rank adapters on all linear layers: the usual choice on one GPU.",
            config="peft.tuners.lora.config:LoraConfig",
            paper="Hu et al. 2021, arXiv:2106.09685",
            # The paper adapts query and value only; all linear layers is what Dettmers et al. 2023 found to matter.
            defaults={"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
            limits={
                "r": Knob(low=1),
                "lora_alpha": Knob(low=0, open_low=True),
                "lora_dropout": Knob(low=0.0, high=1.0),
            },
        ),
    )
}
