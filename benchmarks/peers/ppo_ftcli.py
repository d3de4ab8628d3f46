"""Our PPO on the request that ppo_trl.py takes, told in the same words.   REQUEST.json

Clock on: `trainer.train()`, as the run's own worker calls it. Generation is the sampling of answers, scoring what
policy, reference, critic and reward model make of them, update every forward and backward pass and optimiser step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from common import LIBRARIES

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer


def overrides(request: dict[str, Any]) -> tuple[str, ...]:
    """The request as one would type it."""
    steps = request["episodes"] // request["rollout"] * request["epochs"] * request["minibatches"]
    penalty = request["missing_eos_penalty"]
    return (
        "method=ppo", "peft=none", "hardware=cpu", f"hardware.num_threads={request['threads']}",
        f"model.name_or_path={request['policy']}", f"data.path={request['rows']}", f"seed={request['seed']}",
        f"method.reward_model={request['reward']}", "method.value_model=reward_model",
        f"method.num_ppo_epochs={request['epochs']}", f"method.num_mini_batches={request['minibatches']}",
        f"method.max_new_tokens={request['response_tokens']}", f"method.temperature={request['temperature']}",
        *(f"method.{name}={request[name]}" for name in ("kl_coef", "vf_coef", "cliprange", "cliprange_value")),
        *(f"method.{name}={request[name]}" for name in ("gamma", "lam", "whiten_rewards")),
        f"method.missing_eos_penalty={'null' if penalty is None else penalty}", "method.log_completions_steps=0",
        f"train.per_device_train_batch_size={request['batch']}", f"train.learning_rate={request['learning_rate']}",
        f"train.max_steps={steps}", "train.lr_scheduler_type=constant", "train.max_grad_norm=0",
        "train.save_strategy=no", "train.eval_strategy=no", "train.logging_steps=1", "run.score_rows=0",
        f"run.dir={request['out']}",
    )  # fmt: skip


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train and tell."""
    spec = spec_of(Request(overrides=overrides(request)))
    folder = Path(request["out"])
    folder.mkdir(parents=True)
    rundir.write_atomically(folder / rundir.SPEC, spec.to_json())
    run = load(spec, folder)
    trainer = build_trainer(run)
    seconds = {"generation": 0.0, "scoring": 0.0, "update": 0.0}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            found = function(*args, **kwargs)
            seconds[part] += time.perf_counter() - began
            return found

        return call

    rollouts: list[dict[str, float]] = []
    log = trainer.log

    def noted(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        kept = trainer._metrics["train"]
        if kept.get("reward"):
            episode = (len(rollouts) + 1) * request["rollout"]
            told = {"reward": kept["reward"][-1], "tokens": kept["completions/mean_length"][-1], "kl": kept["kl"][-1]}
            rollouts.append({"episode": episode, **told})
        log(logs, *args, **kwargs)

    trainer.log = noted
    trainer.answerer = timed("generation", trainer.answerer)
    trainer._per_token = timed("scoring", trainer._per_token)
    trainer.rewards = timed_rewards(trainer.rewards, timed)
    sampling = trainer._sample_rollout
    whole = {"rollouts": 0.0, "steps": 0.0}

    def sample_rollout(*args: Any) -> None:
        began = time.perf_counter()
        sampling(*args)
        whole["rollouts"] += time.perf_counter() - began

    trainer._sample_rollout = sample_rollout
    began = time.perf_counter()
    trainer.train()
    took = time.perf_counter() - began
    # Between rollouts there are steps and nothing else: the loop's own bookkeeping is counted as part of the update.
    seconds["update"] = took - whole["rollouts"]
    return {
        "seconds": took,
        "breakdown": {**seconds, "other": whole["rollouts"] - seconds["generation"] - seconds["scoring"]},
        "rollouts": rollouts,
        "steps": trainer.state.global_step,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def timed_rewards(rewards: Any, timed: Callable[..., Any]) -> Any:
    """The rewards with a clock on their call."""
    score = timed("scoring", rewards.__call__)

    class Timed(type(rewards)):  # type: ignore[misc]
        """As its parent."""

        def __init__(self) -> None:
            self.__dict__ = rewards.__dict__

        def __call__(self, *args: Any) -> Any:
            """With the clock on."""
            return score(*args)

    return Timed()


if __name__ == "__main__":
    told = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n" + json.dumps(told), flush=True)
