"""Rollouts of prompts, and a record of answers, for methods that train on their own samples.

A rollout is a batch of prompts that is answered once and trained on in several steps. The Trainer's loop only knows
steps, so its data loader yields the rollout's prompts once for each micro-batch that is trained on, and the trainer
answers them the first time. The repeats cost nothing but indices, and keep the Trainer's own count of steps, epochs and
skipped batches right on a resume.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler

from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.worker.inference.sampling import Sampled


@dataclass
class RewardFields:
    """Where rewards come from; those that are set are summed by weight."""

    reward_model: str | None = None
    """A run of method=reward, or the folder of a reward model."""
    reward_model_weight: float = 1.0
    """Weight of the reward model's score."""
    judge: dict[str, Any] | None = None
    """AI judge that decides for each answer whether it follows a principle, as settings of a backend ({model: RUN}, or
    {type: openai, model: NAME, base_url: URL}); the probability of yes is the reward."""
    judge_weight: float = 1.0
    """Weight of the judge's reward."""
    judge_constitution: str | None = None
    """YAML file with the principles; null is the default set."""
    judge_principles: int = 1
    """Number of principles by which each prompt's answers are judged, drawn by seed."""
    rewards: dict[str, Any] | None = None
    """Rules by name, each with its weight or its settings: {exact_answer: 1, length: {weight: 0.1, most: 50}}
    (`ftcli list reward`)."""
    reward_functions: dict[str, float] | None = None
    """Your own functions as package.module:function with their weights; runs code, so it has to be granted on the
    command line with --trust-reward-code."""
    metric_for_best_model: str | None = "reward"
    greater_is_better: bool | None = True


class RolloutSampler(Sampler[int]):
    """Indices of rollouts of `size` rows, each rollout `repeats` times in succession.

    Every row occurs in each epoch: the last rollout is completed with rows from the epoch's beginning. The order
    depends on seed and epoch only, so a resumed run sees the same.
    """

    def __init__(
        self, num_rows: int, size: int, repeats: int, seed: int, *, group: int = 1, shuffle: bool = True
    ) -> None:
        """`group`: how often each row occurs in its rollout, in succession."""
        self.num_rows, self.size, self.repeats, self.seed, self.shuffle = num_rows, size, repeats, seed, shuffle
        self.group = group
        self.num_rollouts = -(-num_rows // size)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.num_rollouts * self.size * self.group * self.repeats

    def __iter__(self) -> Iterator[int]:
        """An epoch's indices."""
        order = list(range(self.num_rows))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self._epoch)
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for rollout in range(self.num_rollouts):
            # Past the last row the index wraps around, which completes the last rollout.
            rows = range(rollout * self.size, (rollout + 1) * self.size)
            own = [order[i % self.num_rows] for i in rows for _ in range(self.group)]
            for _ in range(self.repeats):
                yield from own


def as_prompts(rows: Any) -> Any:
    """The rows with their tokens in the column that TRL's trainers read."""
    return rows.rename_column("prompt_ids", "prompt") if rows is not None else None


class Completions:
    """Sampled answers in a file of the run, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def forget_after(self, step: int) -> None:
        """Drop the lines from that step on, and all from one that a kill cut short: the run resumes there."""
        kept = []
        with suppress(OSError, ValueError, LookupError, TypeError):
            for line in foreign_files.read_lines(self.file):
                if not line.endswith("\n") or foreign_files.parse_json(line)["step"] >= step:
                    break
                kept.append(line)
        if os.path.lexists(self.file):
            rundir.write_atomically(self.file, "".join(kept))

    def add(self, step: int, sampled: Sequence[Sampled], tokenizer: Any, rewards: Sequence[dict[str, float]]) -> None:
        """Append answers with their rewards."""
        texts = tokenizer.batch_decode([each.answer_ids for each in sampled], skip_special_tokens=True)
        with self.file.open("a", encoding="utf-8") as handle:
            for each, text, reward in zip(sampled, texts, rewards, strict=True):
                prompt = json.loads(each.row)["prompt"]
                line = {"step": step, "prompt": prompt, "answer": text, "ended": each.ended, **reward}
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
