"""Architectures whose packed rows train exactly as unpacked ones do: a list for the fast path, else a worker's trial.

They build their attention mask, and their positions, from `position_ids`, so documents of one block stay apart.
tests/worker/tokenise/test_packing_exact.py verifies it, with sdpa and eager attention where the architecture has them,
to 1e-5 in loss and gradients. Excluded because of their code in transformers: OPT, which takes its positions from the
attention mask; gpt-oss, which builds its mask without positions, so that documents see each other; and mixtures of
experts with a loss for their router, which is a mean over the batch and depends on what else is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.models.shape import Shape

PACKS_EXACTLY = frozenset(
    {
        "cohere",
        "deepseek_v2",
        "deepseek_v3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)

UNPADS_EXACTLY = PACKS_EXACTLY - {"stablelm"}
"""Architectures that pass keyword arguments on to their attention, so that row boundaries reach it. Verified by
tests/worker/trainers/test_unpadded.py; StableLM's layers do not pass them on."""


def why_unpacked(shape: Shape | None, attention: str, settings: Mapping[str, Any]) -> str | None:
    """Why packed rows are not known to train as separate rows do; None where they are.

    Args:
        attention: the attention kernel; flash attention keeps documents apart by their positions alone.
        settings: of the method; a mixture of experts trains with the loss of its router unless they turn that off.
    """
    unknown = "this architecture is not known to keep packed documents apart"
    if shape is None:
        return unknown
    if shape.layout is None or shape.model_type in PACKS_EXACTLY:
        return None if shape.model_type in PACKS_EXACTLY else unknown
    if not shape.layout.packs:
        return f"tried on a small copy: {shape.layout.packing}"
    if shape.layout.router_loss and settings.get("router_aux_loss_coef") != 0:
        why = "the loss of its router is a mean over the batch, which packing changes"
        return f"{why}; method.router_aux_loss_coef=0 turns it off"
    if attention.startswith("flash") and not shape.layout.passes_positions:
        return "its layers do not pass positions on to flash attention, so packed documents would see each other"
    return None
