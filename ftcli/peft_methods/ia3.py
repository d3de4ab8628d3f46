"""IA³ (Liu et al. 2022, arXiv:2205.05638): learned vectors that scale keys, values and the feed-forward's inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import ia3, ia3_targets
from ftcli.peft_methods.peft_declaration import Derived, PeftMethod


def follows(shape: Shape, settings: Mapping[str, Any]) -> Mapping[str, Derived]:
    """Keys, values and the feed-forward's inside, under the names that the family has for them."""
    found = ia3_targets(shape)
    if found is None or settings.get("target_modules") is not None:
        return {}
    scaled, inside = found
    return {
        "target_modules": Derived(value=[*scaled, *inside], why=f"keys, values and feed-forward of {shape.model_type}"),
        "feedforward_modules": Derived(value=inside, why="those whose input is scaled"),
    }


METHODS = (
    PeftMethod(
        name="ia3",
        kind="IA3",
        summary="Scales what the layers already compute: a few ten thousand parameters, for few examples.",
        paper="Liu et al. 2022, arXiv:2205.05638",
        config="peft.tuners.ia3.config:IA3Config",
        follows=follows,
        count=ia3,
        rate_factor=15,
    ),
)
