"""TRL's fused output head for our own trainers: log-probabilities without materialising the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from trl.trainer import utils

_TILE_TOKENS = 4096
"""Vocabulary entries in a tile of the fused head, on the CPU."""


def small_tiles(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU, make the fused head score labelled positions only, in tiles small enough for torch's copies of them.

    Without Triton, TRL scores every position, and keeps about five copies of a tile as wide as the vocabulary.
    """
    if device.type != "cpu":
        return nullcontext()
    return replaced(utils, _use_triton=lambda device: True, _CHUNKED_LOGPROB_CHUNK_SIZE=_TILE_TOKENS)


@contextmanager
def replaced(module: ModuleType, **others: Any) -> Iterator[None]:
    """Replace attributes of a module temporarily."""
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)
