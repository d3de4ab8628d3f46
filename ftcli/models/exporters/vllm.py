"""vLLM: a LoRA adapter as it is, to be served on its base, where vLLM can; else the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.core.text import shell_word
from ftcli.models import sources
from ftcli.models.export.exporter import Exporter, Place, Trained, copy_model, keep_or_copy, served_as_adapter
from ftcli.models.templates.chat_template import GENERATION

_ADDRESS = "http://127.0.0.1:8000/v1"
"""Where vLLM listens where nothing else is said."""


def _write(trained: Trained, plain: Path, place: Place) -> Sequence[str]:
    if served_as_adapter(trained).rank:
        copy_model(trained.folder, place.into)
        return ("the adapter is served on its base, which further adapters of that base can share",)
    keep_or_copy(plain, place)
    return (f"merged into one model: {served_as_adapter(trained).why_not}",) if trained.is_adapter else ()


def _next(trained: Trained, folder: Path, kind: str) -> Sequence[str]:
    word, rank = shell_word(str(folder)), served_as_adapter(trained).rank
    compared = trained.verified_at(_ADDRESS, "--as", trained.title)
    if not rank:
        return (f"vllm serve {word} --served-model-name {trained.title}", *compared)
    base = sources.base_of(trained.folder)
    source = sources.model_source(base)
    served = shell_word(source.location if source else base)
    flags = [f"--enable-lora --max-lora-rank {rank} --lora-modules {trained.title}={word}"]
    # The base's own would be taken for both: those that it was trained with lie beside the adapter.
    if trained.tokenizer == trained.folder:
        flags.append(f"--tokenizer {word}")
    if (trained.folder / GENERATION).is_file():
        flags.append(f"--generation-config {word}")
    return (f"vllm serve {served} {' '.join(flags)}", *compared)


EXPORTER = Exporter(
    summary="for `vllm serve`: a LoRA adapter beside its base where vLLM serves it, else one model",
    merges=lambda trained: trained.is_adapter and not served_as_adapter(trained).rank,
    write=_write,
    next_lines=_next,
)
