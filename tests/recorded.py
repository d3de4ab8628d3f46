"""The worker on answers that were recorded: to each prompt the same, whoever answers it.

python -m tests.recorded RUN ANSWERS.json      ANSWERS: the token ids of the answer to each prompt's text
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from ftcli.worker.process import deferred_imports

    deferred_imports.defer()
    from ftcli.worker.inference.sampling import Sampled
    from ftcli.worker.trainers.rl import generation
    from ftcli.worker.training.run import train

    answers = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))

    def recorded(model: Any, tokenizer: Any, rows: list[dict[str, Any]], **how: Any) -> list[Sampled]:
        found = [(row, answers[json.loads(row["row"])["prompt"][-1]["content"]]) for row in rows]
        return [
            Sampled(list(row["prompt_ids"]), answer, row["row"], ended=len(answer) % 2 == 0) for row, answer in found
        ]

    generation.sample = recorded
    train(Path(sys.argv[1]))
