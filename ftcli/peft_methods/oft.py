"""Orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280), in the input-centric form of OFTv2 (arXiv:2506.19847)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.core.errors import Problem
from ftcli.peft_methods.parameter_counts import oft
from ftcli.peft_methods.peft_declaration import PeftMethod
from ftcli.settings.limits import Limit


def check(settings: Mapping[str, Any]) -> list[Problem]:
    """That the blocks are counted in one way: how many there are, or how wide they are."""
    number, side = settings.get("r") or 0, settings.get("oft_block_size", 32)
    if bool(number) != bool(side):
        return []
    what = f"peft.r={number} and peft.oft_block_size={side}: one must be 0, for the other decides it"
    return [Problem("peft.r", what, "peft.r=8 peft.oft_block_size=0, or peft.oft_block_size=32 alone")]


METHODS = (
    PeftMethod(
        name="oft",
        kind="OFT",
        summary="Rotates the weights and keeps the angles between neurons: where forgetting is the fear.",
        paper="Qiu et al. 2023, arXiv:2306.07280",
        config="peft.tuners.oft.config:OFTConfig",
        defaults={"oft_block_size": 32, "target_modules": "all-linear"},
        limits={"oft_block_size": Limit(low=0), "r": Limit(low=0), "module_dropout": Limit(low=0, high=1)},
        count=oft,
        check=check,
    ),
)
