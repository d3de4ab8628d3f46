"""Attention kernels: which a card, an architecture and the installed packages can run.

Where several compute a run exactly, the first of them is the rule's, and the worker measures which is fastest. Flash
attention comes in packages that replace each other, and transformers takes the kernel of the same version from
the hub where one is missing and the package `kernels` is there: code that nobody granted. So only an installed one is
chosen or accepted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ftcli.core.hardware import Gpu
from ftcli.models.packing_support import PACKS_EXACTLY
from ftcli.models.shape import Shape

LONG_ROW_TOKENS = 8192
"""From here on a mask costs more than compiling flex attention: a packed row of 32k tokens has 1 GiB of it."""
PLAIN = ("sdpa", "eager")
HUB = "kernels-community/"


class FlashKernel(NamedTuple):
    """One version of flash attention."""

    module: str
    distribution: str
    """The package that provides it: versions 2 and 4 share the name of their module."""
    least: tuple[int, int]
    """CUDA's compute capability from which on it runs."""
    below: tuple[int, int]
    """The capability from which on it no longer does."""
    head_dim: int
    """The widest head."""

    @property
    def is_installed(self) -> bool:
        """Whether its package is there, without importing it."""
        if importlib.util.find_spec(self.module) is None:
            return False
        from importlib.metadata import PackageNotFoundError, version  # takes as long as a help screen

        try:
            return bool(version(self.distribution))
        except PackageNotFoundError:
            return False

    def runs_on(self, card: Gpu) -> bool:
        """Whether the card can run it."""
        return self.least <= card.capability < self.below


_ANY = (99, 0)
FLASH: Mapping[str, FlashKernel] = MappingProxyType(
    {
        "flash_attention_4": FlashKernel("flash_attn", "flash-attn-4", (9, 0), _ANY, 128),
        "flash_attention_3": FlashKernel("flash_attn_interface", "flash-attn-3", (9, 0), (10, 0), 256),
        "flash_attention_2": FlashKernel("flash_attn", "flash-attn", (8, 0), _ANY, 256),
    }
)
"""The versions that transformers calls by name, newest first."""

FLASH_EXACTLY = PACKS_EXACTLY - {"deepseek_v2", "deepseek_v3", "gpt2", "stablelm"}
"""Architectures for which flash attention is chosen: those whose packed rows train exactly, and whose keys and values
are equally wide, with flex attention too."""


def candidates(
    shape: Shape | None, cards: Sequence[Gpu], *, packed_tokens: int | None, float32: bool = False
) -> tuple[str, ...]:
    """The kernels that compute the same run, the one that `auto` means first.

    Args:
        cards: the GPUs that it will run on; none on a CPU.
        packed_tokens: the length of packed rows where one was set.
        float32: whether the model computes in float32, which flash attention does not take.
    """
    if shape is not None and not shape.supports_sdpa:
        return ("eager",)
    if not cards or shape is None or shape.model_type not in FLASH_EXACTLY:
        return ("sdpa",)
    flash = [
        name
        for name, kernel in FLASH.items()
        if kernel.is_installed and all(map(kernel.runs_on, cards)) and shape.head_dim <= kernel.head_dim
    ]
    long = packed_tokens is not None and packed_tokens >= LONG_ROW_TOKENS
    whole = shape.head_dim >= 16 and shape.head_dim & (shape.head_dim - 1) == 0  # what its compiled kernel takes
    flex = long and whole and all(card.has_bfloat16 for card in cards)
    return (*([] if float32 else flash), *(["flex_attention"] if flex else []), "sdpa")


def chosen(
    shape: Shape | None, cards: Sequence[Gpu], *, packed_tokens: int | None, float32: bool = False
) -> tuple[str, str]:
    """The kernel that `auto` means without a measurement, and why; arguments are those of `candidates`."""
    name = candidates(shape, cards, packed_tokens=packed_tokens, float32=float32)[0]
    if name in FLASH:
        return name, f"{FLASH[name].distribution} is installed, and needs no mask to keep packed rows apart"
    if name == "flex_attention":
        return name, f"packed rows of {packed_tokens} tokens, whose mask it never holds whole"
    if name == "eager":
        return name, "the architecture does not support sdpa"
    if not cards or shape is None or shape.model_type not in FLASH_EXACTLY:
        return name, "torch's fused attention"
    why = "flash attention does not compute in float32" if float32 else "no flash-attn package is installed"
    return name, f"torch's fused attention; {why}"


def runs_here(name: str, *, cuda: bool) -> bool:
    """Whether a kernel of the installed libraries runs in this process; a hub kernel is another matter."""
    kernel = FLASH.get(name)
    return kernel is None or (cuda and kernel.is_installed)
