"""The mean reward of answers to held-out prompts, by which a run chooses its best checkpoint and may stop early.

TRL takes the mean of batch means, counts prompts twice that fill up the last batch, and draws the answers of a batch
together. Here answers are dealt to the processes one by one, each is drawn by random numbers of its own, and all
rewards are put together before their mean is taken: size of a batch and number of processes change nothing but the
rounding of what the model computes. Every evaluation draws by the same numbers, so it compares models and not draws.
vLLM draws by itself, and its answers are others each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_utils import speed_metrics

from ftcli.worker.inference.fixed_draws import FixedDraws, turns_of
from ftcli.worker.inference.sampling import Sampled
from ftcli.worker.rewards.mixture import Rewards


class HeldOutRewards:
    """Mixin before a trainer that learns from rewards of its own answers."""

    rewards: Rewards
    answers_each = 1
    """Answers to each held-out prompt."""
    held_out_together: int | None = None
    """How many of them are generated at once; None is as many as a rollout has, for which there is memory, and at least
    a batch of the evaluation."""

    def held_out_answers(self, rows: Sequence[dict[str, Any]], draws: FixedDraws) -> list[Sampled]:
        """An answer to each row's prompt; called in every process, with as many rows in each."""
        raise NotImplementedError

    def held_out_metrics(self, parts: Tensor, lengths: Tensor, ended: Tensor) -> dict[str, float]:
        """What is reported of the answers to all held-out prompts, those of one next to each other.

        Args:
            parts: each reward component of each answer, of shape (answers, components).
            lengths: in tokens, of shape (answers,).
            ended: whether each answer has an end, of shape (answers,).
        """
        raise NotImplementedError

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """The rewards of answers sampled for the held-out prompts; a loss of answers sampled anew means nothing."""
        own: Any = self
        begun = time.time()
        rows = own.eval_dataset if eval_dataset is None else eval_dataset
        own.model.eval()
        found = self._told_of_all([row for row in rows for _ in range(self.answers_each)])
        *parts, lengths, ended = found.T
        measured = self.held_out_metrics(torch.stack(parts, dim=1), lengths, ended > 0)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        metrics |= speed_metrics(metric_key_prefix, begun, num_samples=len(found))
        own.log(metrics)
        own.control = own.callback_handler.on_evaluate(own.args, own.state, own.control, metrics)
        return metrics

    def _told_of_all(self, asked: Sequence[dict[str, Any]]) -> Tensor:
        """Of each answer its reward components, its length, and whether it ends: (answers, components + 2), float64."""
        own: Any = self
        world, rank = own.args.world_size, own.args.process_index
        draws = FixedDraws.of(prompts := [prompt_of(row) for row in asked], own.args.seed, turns_of(prompts))
        # A process without a last answer of its own repeats one: shards and servers want as many calls of each.
        mine = [place if place < len(asked) else 0 for place in range(rank, -(-len(asked) // world) * world, world)]
        sampled = self.held_out_answers([asked[place] for place in mine], draws.only(mine))
        told = torch.tensor([(len(each.answer_ids), float(each.ended)) for each in sampled])
        found = torch.cat([self.rewards(sampled).float().cpu(), told], dim=1)
        if world > 1:
            gathered = own.accelerator.gather(found.to(own.accelerator.device)).cpu()
            found = gathered.view(world, len(mine), -1).transpose(0, 1).flatten(0, 1)[: len(asked)]
        return found.double()


def prompt_of(row: dict[str, Any]) -> list[int]:
    """The tokens of a row's prompt, under the name that its trainer reads."""
    return list(row["prompt_ids"] if "prompt_ids" in row else row["prompt"])
