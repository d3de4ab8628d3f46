"""TRL's PPO: `trl.experimental.ppo`, which 1.12 was the last release to have, for a paired run.   REQUEST.json

Does what TRL's own examples/scripts/ppo/ppo.py does, in fp32 on CPU: the policy with all its parameters, a second copy
of it as reference, reward and value model both from the reward folder. Clock on: `trainer.train()`. What a part of it
took is told by wrappers around the functions that its loop calls:

    generation  `batch_generation`: sampling the answers of a rollout
    scoring     `forward` and `get_reward` without gradients: reference, value and reward model over the answers
    update      from the first `forward` with gradients to the rollout's log line: all PPO epochs, optimiser included
    other       the rest; log-probabilities from the logits, GAE and the data loader are small beside the two
                `gc.collect()` a rollout (measured: 2.58 of 2.65 s in 4 rollouts, tiny model, one thread)

A rollout's reward and length are read where the reward model is called, so they hold no KL and no penalty for an answer
without an end; its KL is TRL's `objective/kl`, in nats an answer (k1, summed over the answer, mean over the rollout).

Left as TRL has it: no dropout, no clipping of gradients (its loop never reads max_grad_norm), answers sampled and
scored 64 rows at a time. Its trainer needed no repair; what it accepts and should not is kept from it below.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as loop
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


class Observer(TrainerCallback):
    """Where the time goes, and what each rollout was like."""

    def __init__(self, reward_model: torch.nn.Module) -> None:
        self.seconds = {"generation": 0.0, "scoring": 0.0, "update": 0.0}
        self.rollouts: list[dict[str, float]] = []
        self._reward_model = reward_model
        self._update_began: float | None = None
        self._scores: list[torch.Tensor] = []
        self._lengths: list[torch.Tensor] = []

    def watch(self) -> None:
        """Put the wrappers where the trainer looks its functions up."""
        loop.batch_generation = self._timed("generation", loop.batch_generation)
        loop.forward = self._forward(loop.forward)
        loop.get_reward = self._get_reward(loop.get_reward)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """TRL logs once a rollout, right after its last PPO epoch."""
        if self._update_began is None:
            return
        self.seconds["update"] += time.perf_counter() - self._update_began
        scores, lengths = torch.cat(self._scores), torch.cat(self._lengths)
        found = {"reward": scores.mean().item(), "tokens": lengths.float().mean().item(), "kl": logs["objective/kl"]}
        self.rollouts.append({"episode": state.episode, **found})
        self._update_began, self._scores, self._lengths = None, [], []

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            found = function(*args)
            self.seconds[part] += time.perf_counter() - began
            return found

        return timed

    def _forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The reference's forward in the rollout, the policy's and the critic's in the update."""
        scoring = self._timed("scoring", function)

        def forward(*args: Any) -> Any:
            if not torch.is_grad_enabled():
                return scoring(*args)
            if self._update_began is None:
                self._update_began = time.perf_counter()
            return function(*args)

        return forward

    def _get_reward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Called for the value model too, whose scores are none."""
        scoring = self._timed("scoring", function)

        def get_reward(model: Any, tokens: Any, pad_token_id: int, context_length: int) -> Any:
            found = scoring(model, tokens, pad_token_id, context_length)
            if model is self._reward_model:
                self._scores.append(found[1])
                self._lengths.append(found[2] + 1 - context_length)
            return found

        return get_reward


def config(request: dict[str, Any]) -> PPOConfig:
    """The request in TRL's words.

    Raises:
        ValueError: a rollout is not `minibatches` batches.
    """
    if request["rollout"] != request["batch"] * request["minibatches"]:
        raise ValueError("rollout must be batch × minibatches")
    return PPOConfig(
        output_dir=request["out"],
        seed=request["seed"],
        # A rollout is TRL's local batch: per_device_train_batch_size × gradient_accumulation_steps. Making it by
        # accumulation, as the parameters' names suggest, would not give an optimiser step a minibatch: accelerate
        # then steps only at every gradient_accumulation_steps-th of them (measured: 8 steps for 2, in place of 16).
        per_device_train_batch_size=request["rollout"],
        gradient_accumulation_steps=1,
        num_mini_batches=request["minibatches"],
        num_ppo_epochs=request["epochs"],
        total_episodes=request["episodes"],
        response_length=request["response_tokens"],
        stop_token="eos",
        learning_rate=request["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        kl_coef=request["kl_coef"],
        vf_coef=request["vf_coef"],
        cliprange=request["cliprange"],
        cliprange_value=request["cliprange_value"],
        gamma=request["gamma"],
        lam=request["lam"],
        temperature=request["temperature"],
        whiten_rewards=request["whiten_rewards"],
        missing_eos_penalty=request["missing_eos_penalty"],
        num_sample_generations=0,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        dataloader_pin_memory=False,
    )


def prompts(request: dict[str, Any], pad_token_id: int, eos_token_id: int) -> Dataset:
    """Token ids as its collator wants them.

    Raises:
        ValueError: what TRL would not refuse: it would loop for ever, or mistake every end for padding.
    """
    rows = json.loads(Path(request["prompts"]).read_text(encoding="utf-8"))
    if len(rows) < request["rollout"]:
        raise ValueError(f"{len(rows)} prompts do not fill a rollout of {request['rollout']}")
    if pad_token_id == eos_token_id:
        raise ValueError("the tokenizer's pad token must not be its end token")
    return Dataset.from_dict({"input_ids": rows})


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train, save the policy, and tell."""
    torch.set_num_threads(request["threads"])
    # The trainer seeds torch alone, and shuffles its minibatches with numpy.
    set_seed(request["seed"])
    # The trainer takes right padding in silence, which puts the padding between prompt and answer.
    tokenizer = AutoTokenizer.from_pretrained(request["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(request["policy"], dtype=torch.float32) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(request["reward"], num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    observer = Observer(reward)
    trainer = PPOTrainer(
        args=config(request),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=prompts(request, tokenizer.pad_token_id, tokenizer.eos_token_id),
        callbacks=[observer],
    )
    observer.watch()
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    policy.save_pretrained(request["out"])
    AutoTokenizer.from_pretrained(request["policy"]).save_pretrained(request["out"])
    return {
        "seconds": seconds,
        "breakdown": {**observer.seconds, "other": seconds - sum(observer.seconds.values())},
        "rollouts": observer.rollouts,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


if __name__ == "__main__":
    told = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n" + json.dumps(told), flush=True)
