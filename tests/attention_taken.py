"""The worker, each process of which would measure another attention kernel as the fastest, and says which it took.

python -m tests.attention_taken train RUN

RUN/kernel-RANK holds the kernel of the model that trains in that process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer

from ftcli.worker.training import attention_choice
from ftcli.worker.training.attention_timing import Passes

FASTEST = {"0": "eager", "1": "sdpa"}
"""What the first and the second process would measure as the fastest."""


def disagree(run: Path) -> None:
    """Plant a measurement in this process, and note with which kernel it trains."""
    rank, train = os.environ["RANK"], Trainer.train

    class Planted:
        def __init__(self, *_: Any) -> None:
            pass

        def __call__(self, kernel: str) -> Passes:
            return Passes(1.0 if kernel == FASTEST[rank] else 2.0)

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        (run / f"kernel-{rank}").write_text(self.model.config._attn_implementation, encoding="utf-8")
        return train(self, *args, **kwargs)

    def unread(_: Path) -> None:
        """As where each machine has a folder of its own, so that only a message can tell what was taken."""

    attention_choice.recorded = unread
    attention_choice.LayerTimer = Planted  # type: ignore[assignment,misc]
    Trainer.train = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main

    disagree(Path(sys.argv[2]))
    leave(main(sys.argv[1:]), sys.argv[1:])
