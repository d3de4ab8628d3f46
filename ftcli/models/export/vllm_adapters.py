"""Which adapters vLLM serves on their base: plain LoRA on layers, of one rank, and no more.

Some of the others it refuses; of some it reads what it knows, and answers otherwise without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftcli.models import sources

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM may be told to make room for."""
_UNREAD = ("modules_to_save", "trainable_token_indices", "target_parameters", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class Servable:
    """Whether vLLM serves an adapter on its base."""

    rank: int = 0
    """The room for its rank; 0 where it does not serve it."""
    why_not: str = field(default="")


def servable_adapter(folder: Path) -> Servable:
    """Whether vLLM serves the adapter of a folder on its base, which is a whole model."""
    declared = sources.adapter_declares(folder)
    if declared.get("peft_type") != "LORA" or declared.get("use_dora"):
        return Servable(why_not="vLLM serves LoRA adapters alone")
    if used := [name for name in _UNREAD if declared.get(name)]:
        return Servable(why_not=f"vLLM does not serve adapters with {used[0]}")
    if declared.get("bias", "none") != "none" or declared.get("lora_bias"):
        return Servable(why_not="vLLM does not serve adapters with biases")
    if not (folder / "adapter_model.safetensors").is_file():
        return Servable(why_not="its weights are not in a safetensors file")
    rank = declared.get("r")
    room = next((each for each in LORA_RANKS if isinstance(rank, int) and rank <= each), 0)
    return Servable(room, "" if room else f"vLLM serves ranks up to {LORA_RANKS[-1]}")
