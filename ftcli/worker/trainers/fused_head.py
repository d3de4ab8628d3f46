"""TRL's fused output head, for the trainers of our own: log-probabilities without a tensor of logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from trl.trainer import utils

_TILE_WORDS = 4096
"""Words of the vocabulary in a tile of the fused head, on the CPU."""


def small_tiles(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU, has the fused head score labelled positions alone, in tiles that torch's copies of stay small.

    Where there is no Triton, TRL scores every position, and keeps some five copies of a tile of the whole vocabulary.
    """
    if device.type != "cpu":
        return nullcontext()
    return replaced(utils, _use_triton=lambda device: True, _CHUNKED_LOGPROB_CHUNK_SIZE=_TILE_WORDS)


@contextmanager
def replaced(module: ModuleType, **others: Any) -> Iterator[None]:
    """Other things under names of a module, for a while."""
    own = {name: getattr(module, name) for name in others}
    vars(module).update(others)
    try:
        yield
    finally:
        vars(module).update(own)
