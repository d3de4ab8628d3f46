"""Architectures whose packed rows train exactly as unpacked ones do.

They build their attention mask, and their positions, from `position_ids`, so documents of one block stay apart. Held by
tests/worker/test_packing_exact.py, with sdpa and eager attention, to 1e-5 in loss and gradients. Not among them: OPT,
which takes its positions from the attention mask, and mixtures of experts, where it was not found exact.
"""

PACKS_EXACTLY = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "smollm3", "gpt2"}
)
