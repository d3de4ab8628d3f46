"""Random Llamas of the usual sizes with the tokenizer of the built-in model, written where they are wanted.

    python -m tests.gpu.random_models FOLDER DEVICE TINY NAME…

Weights are drawn on the device: drawing eight thousand million numbers takes a CPU minutes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftcli import tiny

_LENGTH = 16384
# Llama 3.2 1B and 3B, and 3.1 8B, with their vocabulary; `small` is what a few steps move quickly.
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 8192, "tie_word_embeddings": True,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False,
    },
}  # fmt: skip
_TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 1024,
}  # fmt: skip
_TINY_LAYERS = {"small": 2, "1b": 2, "3b": 3, "8b": 4}
# One layer whose inside alone is too large for a batch of many rows: 17 GiB in a single allocation.
WIDE: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 65536, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 1024, "tie_word_embeddings": True,
}  # fmt: skip
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def config_of(name: str, *, small: bool) -> LlamaConfig:
    """The configuration of a model, or of its stand-in in a rehearsal."""
    sizes = WIDE if name == "wide" else SIZES[name]
    if small and name != "wide":
        sizes = {**sizes, **_TINY, "num_hidden_layers": _TINY_LAYERS[name]}
    return LlamaConfig(**sizes, max_position_embeddings=_LENGTH, dtype="bfloat16")


def write(config: LlamaConfig, folder: Path, device: str) -> None:
    """Write the model and its tokenizer, and last a mark that they are whole."""
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copy(tiny.MODEL_DIR / name, folder / name)
    (folder / "written").touch()


def main(folder: str, device: str, small: str, *names: str) -> None:
    """Write each into a folder of its name."""
    for name in names:
        write(config_of(name, small=small == "1"), Path(folder) / name, device)


if __name__ == "__main__":
    main(*sys.argv[1:])
