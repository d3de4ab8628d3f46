"""The worker, with answers drawn by random numbers that depend on the token's place and the answer's, not on a process.

    python -m tests.common_draws train RUN [--resume CHECKPOINT]

One process and several draw from generators of their own, so what they sample, and then learn, differs by design. Here
token number n of answer number g of every prompt takes the same random number everywhere: the inverse of its
distribution at that number. So a method that samples can be compared between layouts step by step.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

_GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly (Weyl's sequence)."""


def draw_alike(group: int) -> None:
    """Draw every token by its place.

    Args:
        group: answers to each prompt, which lie next to each other in a batch; a batch is a multiple of it.
    """
    from transformers import GenerationMixin

    place = 0
    generate = GenerationMixin.generate

    def from_the_first(self: Any, *args: Any, **how: Any) -> Any:
        nonlocal place
        place = 0
        return generate(self, *args, **how)

    def multinomial(probabilities: torch.Tensor, num_samples: int, **_: Any) -> torch.Tensor:
        nonlocal place
        assert num_samples == 1
        answers = torch.arange(len(probabilities)) % group
        number = ((place + 1) * _GOLDEN + (answers + 1) * _GOLDEN**2) % 1
        place += 1
        return (
            (probabilities.double().cumsum(-1) < number[:, None])
            .sum(-1, keepdim=True)
            .clamp(max=probabilities.shape[-1] - 1)
        )

    GenerationMixin.generate = from_the_first
    torch.multinomial = multinomial  # type: ignore[assignment]


if __name__ == "__main__":
    from pathlib import Path

    from ftcli.runs import rundir
    from ftcli.settings.run_spec import RunSpec
    from ftcli.worker.__main__ import leave, main

    draw_alike(int(RunSpec.load(Path(sys.argv[2]) / rundir.SPEC).method.get("num_generations") or 4))
    leave(main(sys.argv[1:]), sys.argv[1:])
