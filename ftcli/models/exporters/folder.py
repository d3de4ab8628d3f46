"""A folder of safetensors with tokenizer, template and card, which transformers, vLLM, SGLang, TGI and MLX read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.core.text import shell_word
from ftcli.models.export.exporter import Exporter, Place, Trained, keep_or_copy


def _write(trained: Trained, plain: Path, place: Place) -> Sequence[str]:
    keep_or_copy(plain, place)
    return ()


def _next(trained: Trained, folder: Path, kind: str) -> Sequence[str]:
    word = shell_word(str(folder))
    return (
        *trained.verified_at(folder),
        f"ftcli chat {word}",
        f"transformers serve {word}",
        f"mlx_lm.server --model {word}      # MLX, which reads this folder",
    )


EXPORTER = Exporter(
    summary="safetensors with tokenizer, chat template and card; MLX reads it too", write=_write, next_lines=_next
)
