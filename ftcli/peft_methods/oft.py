"""Orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280), in the input-centric form of OFTv2 (arXiv:2506.19847)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.models.layout import Module
from ftcli.models.shape import Shape
from ftcli.peft_methods.parameter_counts import Settings, adapter_parameters, whole_number
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import BELOW_ONE, Limit
from ftcli.settings.sourced_defaults import Default

CONFIG = "peft.tuners.oft.config:OFTConfig"


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """The blocks must be given in one way: their number or their width."""
    number, side = settings.get("r") or 0, settings.get("oft_block_size", 32)
    if bool(number) != bool(side):
        return []
    what = f"peft.r={number} and peft.oft_block_size={side}: one must be 0, because each determines the other"
    return [Problem("peft.r", what, "peft.r=8 peft.oft_block_size=0, or peft.oft_block_size=32 alone")]


def count(shape: Shape, settings: Settings) -> int | None:
    """A skew-symmetric matrix, b(b − 1)/2, for each of in / b blocks (Qiu et al. 2023, arXiv:2306.07280, section 3).

    For an embedding the output is rotated, whose width the layout calls `in_features`.
    """
    number, side = whole_number(settings, "r", CONFIG), whole_number(settings, "oft_block_size", CONFIG)
    if (number == 0) == (side == 0):
        raise ValueError("oft needs exactly one of r and oft_block_size; the other must be 0")

    def angles(module: Module) -> int:
        if shape.family and shape.family.builder == "gpt2" and module.kind == "linear" and not module.head:
            raise ValueError("PEFT's oft rotates nn.Linear only, and GPT-2's layers are Conv1D")
        width = module.in_features
        wide = _divisor(width, side) if side else width // _divisor(width, number)
        blocks = 1 if settings.get("block_share") else width // wide
        return blocks * wide * (wide - 1) // 2

    return adapter_parameters(shape, settings, angles, kinds=("linear", "embedding"))


def _divisor(width: int, wanted: int) -> int:
    """The divisor of `width` nearest to what was asked for, the lower of two, as PEFT adjusts block sizes."""
    if wanted <= width and width % wanted == 0:
        return wanted
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    above = next((number for number in divisors if number >= wanted), width)
    below = max((number for number in divisors if number <= wanted), default=1)
    return below if wanted - below <= above - wanted else above


METHODS = (
    PeftMethod(
        name="oft",
        kind="OFT",
        summary="Rotates the weights and keeps the angles between neurons: where forgetting is the fear.",
        paper="Qiu et al. 2023, arXiv:2306.07280",
        config=CONFIG,
        defaults={"oft_block_size": 32, "target_modules": "all-linear"},
        limits={"oft_block_size": Limit(low=0), "r": Limit(low=0), "module_dropout": BELOW_ONE},
        sources={"oft_block_size": Default(value=32, source="OFTv2 (arXiv:2506.19847): 32")},
        rate_factor=Default(
            value=1,
            source="OFTv2 (arXiv:2506.19847): LoRA's rate or a little more; PEFT's comparison on MetaMathQA: LoRA's",
            measured="benchmarks/adapters.py: LoRA's 0.003",
        ),
        count=count,
        check=check,
    ),
)
