"""Answers to held-out prompts that are drawn alike each time, and whatever batch or process they are drawn in.

Generation draws the next tokens of a batch together, from torch's one generator, so an answer would depend on the
prompts beside its own. Here token n of a prompt's answer is the inverse of its distribution at a random number of that
answer and n alone. What training draws afterwards is the same with or without an evaluation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class FixedDraws:
    """The random numbers of each row of a batch, which rows may leave."""

    generators: list[torch.Generator]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], seed: int, answers: Sequence[int] | None = None) -> FixedDraws:
        """Those of answers to prompts, one a row.

        Args:
            seed: another one gives other answers.
            answers: which of its prompt's answers each row is, for more than one to a prompt; by default the first.
        """
        numbers = answers if answers is not None else [0] * len(prompts)
        keys = [_key(prompt, seed, number) for prompt, number in zip(prompts, numbers, strict=True)]
        return cls([torch.Generator().manual_seed(key) for key in keys])

    def only(self, rows: Iterable[int]) -> FixedDraws:
        """Those of some of its rows."""
        return FixedDraws([self.generators[row] for row in rows])

    def keep(self, rows: Iterable[int]) -> None:
        """Go on with these rows alone."""
        self.generators = self.only(rows).generators

    def multinomial(self, probabilities: Tensor, num_samples: int, **_: Any) -> Tensor:
        """In place of torch's own: one token of each row, (B, 1), from (B, vocabulary)."""
        assert num_samples == 1
        numbers = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in self.generators])
        # Float64, as a sum over a large vocabulary; its end is scaled to 1, which rounding may leave it short of.
        sums = probabilities.double().cumsum(-1)
        below = numbers.to(sums.device)[:, None] * sums[:, -1:]
        return torch.searchsorted(sums, below, right=True).clamp(max=sums.size(-1) - 1)


@contextmanager
def drawing(draws: FixedDraws) -> Iterator[None]:
    """Draw the answers of one batch by its rows' own random numbers."""
    own = torch.multinomial
    torch.multinomial = draws.multinomial  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.multinomial = own


def turns_of(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Which of its prompt's answers each row is: equal prompts are numbered in their order."""
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for prompt in map(tuple, prompts):
        found.append(seen[prompt])
        seen[prompt] += 1
    return found


def _key(prompt: Sequence[int], seed: int, answer: int) -> int:
    text = f"{seed} {answer} {' '.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
