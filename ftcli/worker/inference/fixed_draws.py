"""Answers to held-out prompts that are drawn alike each time, and whatever batch or process they are drawn in.

Generation draws the next tokens of a batch together, from torch's one generator, so an answer would depend on the
prompts beside its own. Here token n of a prompt's answer is the inverse of its distribution at a random number of that
prompt and n alone. What training draws afterwards is the same with or without an evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def fixed_draws(prompts: Sequence[Sequence[int]], seed: int) -> Iterator[None]:
    """Draw the answers of one call of transformers' `generate` by the prompts' own random numbers.

    Args:
        prompts: of each row of its batch.
        seed: another one gives other answers.
    """
    generators = [torch.Generator().manual_seed(_key(prompt, seed)) for prompt in prompts]

    def multinomial(probabilities: Tensor, num_samples: int, **_: Any) -> Tensor:
        """One token of each row, (B, 1), from (B, vocabulary)."""
        assert num_samples == 1
        numbers = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in generators])
        # Float64, as a sum over a large vocabulary; its end is scaled to 1, which rounding may leave it short of.
        sums = probabilities.double().cumsum(-1)
        below = numbers.to(sums.device)[:, None] * sums[:, -1:]
        return torch.searchsorted(sums, below, right=True).clamp(max=sums.size(-1) - 1)

    own = torch.multinomial
    torch.multinomial = multinomial  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.multinomial = own


def _key(prompt: Sequence[int], seed: int) -> int:
    text = f"{seed} {' '.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
