"""Some answers that a model gave while it was measured, kept for the report: the same questions before and after.

They cost nothing where the metric reads greedy answers, which are then the ones that are kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.tokenise.encoder import Encoder, Ids

MOST_ROWS = 8
MOST_TOKENS = 64
"""Of answers that are given for the report alone."""
MOST_LETTERS = 2000
"""Of a prompt, which is kept from its end, and of an answer."""


@dataclass
class KeptAnswers:
    """The first answers of a measurement, as text."""

    encoder: Encoder
    rows: list[dict[str, Any]] = field(default_factory=list)
    """{"where", "prompt", "answer"}, and where they are known the "right" answer and the "reward"."""

    def add(
        self,
        places: Sequence[str],
        prompts: Sequence[Ids],
        answers: Sequence[Ids],
        *,
        right: Sequence[Ids] | None = None,
        rewards: Sequence[float] | None = None,
    ) -> None:
        """Keep as many of these as there is room for.

        Args:
            places: where each row comes from.
        """
        reader = AnswerReader(self.encoder)
        for index in range(min(len(prompts), MOST_ROWS - len(self.rows))):
            prompt = prompts[index]
            text: str = self.encoder.tokenizer.decode(prompt, skip_special_tokens=False)
            place = os.path.basename(places[index])  # where the file lies is nobody's business
            row: dict[str, Any] = {"where": place, "prompt": text[-MOST_LETTERS:]}
            if right is not None:
                row["right"] = reader.whole(prompt, right[index])[:MOST_LETTERS]
            if rewards is not None:
                row["reward"] = rewards[index]
            self.rows.append({**row, "answer": reader.whole(prompt, answers[index])[:MOST_LETTERS]})
