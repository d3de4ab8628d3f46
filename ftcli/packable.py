"""Architectures whose packed rows are known to train exactly as unpacked ones do."""

PACKS_EXACTLY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
