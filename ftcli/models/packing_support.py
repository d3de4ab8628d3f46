"""Architectures whose packed rows train exactly as unpacked ones do.

They build their attention mask, and their positions, from `position_ids`, so documents of one block stay apart.
tests/worker/tokenise/test_packing_exact.py verifies it, with sdpa and eager attention where the architecture has them,
to 1e-5 in loss and gradients. Excluded because of their code in transformers: OPT, which takes its positions from the
attention mask; gpt-oss, which builds its mask without positions, so that documents see each other; and mixtures of
experts with a loss for their router, which is a mean over the batch and depends on what else is in it.
"""

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
