"""What the pipelines of AI feedback share: the assistant that they begin with, the judge, and how the policy learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.methods.pipeline import Option, Stage
from ftcli.tiny.facts import POLITE_PATTERN

MEASURE: Mapping[str, Any] = {"polite": {"regex": {"pattern": POLITE_PATTERN}}, "right": {"holds_answer": 1.0}}
"""By what the policies of the built-in world are measured."""
DPO, PPO, DIRECT = "dpo", "ppo", "direct"


def algorithm(*choices: str) -> Option:
    """How a policy learns from a judge."""
    told = {
        DPO: "`dpo` from the pairs",
        PPO: "`ppo` by a reward model that is trained on the pairs",
        DIRECT: "`direct` by PPO with the judge itself for a reward, and no pairs",
    }
    text = "how the policy learns from the judge: " + ", ".join(told[choice] for choice in choices)
    return Option(default=DPO, text=text, choices=choices)


def assistant(summary: str) -> Stage:
    """A model that follows instructions."""
    return Stage(
        name="assistant",
        method="sft",
        summary=summary,
        tiny={
            "data.path": "builtin:instructions",
            "train.learning_rate": 2e-3,
            "train.num_train_epochs": 4,
            "train.per_device_train_batch_size": 8,
        },
    )


def policy(name: str, summary: str) -> Stage:
    """A policy that is begun as the assistant; in the built-in world one of mixed manners."""
    return Stage(
        name=name,
        method="sft",
        summary=summary,
        takes={"model.name_or_path": "assistant"},
        tiny={
            "data.path": "builtin:manners",
            "train.learning_rate": 1e-3,
            "train.num_train_epochs": 2,
            "train.per_device_train_batch_size": 8,
        },
    )


def sample(of: str, tiny: Mapping[str, Any], number: int = 1) -> Stage:
    """Answers of a policy to prompts."""
    return Stage(
        name=_named("sample", number),
        task="generate",
        role="generator",
        summary=f"answers of {of} to each prompt",
        takes={"backend.model": of},
        tiny={"make.max_new_tokens": 32, **tiny},
    )


def learning(by: str, of: str, *, number: int = 1, least_margin: float, prompts: str) -> tuple[Stage, ...]:
    """The stages in which a policy learns from a judge, from the judge's preferences on.

    Args:
        by: DPO or PPO, which take the preferences of a stage `judge`, or DIRECT, which takes none.
        of: the policy's stage.
        number: of the round.
        least_margin: below which the built-in judge's pairs are ties.
        prompts: the built-in set that the built-in policy answers in PPO.
    """
    if by == DIRECT:
        return (_ppo(of, number, prompts, role="judge"),)
    judged = _judge(number, least_margin)
    if by == DPO:
        told = "a policy whose answers the judge prefers"
        return (judged, _of_pairs("dpo", told, of, judged.name, number, learning_rate=1e-4, epochs=1))
    told = "a score for each answer, from the judge's preferences"
    reward = _of_pairs("reward", told, of, judged.name, number, learning_rate=2e-4, epochs=2)
    return (judged, reward, _ppo(of, number, prompts, reward=reward.name))


def _named(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _judge(number: int, least_margin: float) -> Stage:
    tiny = {"make.mode": "score", "make.constitution": "builtin:principles", "make.least_margin": least_margin}
    return Stage(
        name=_named("judge", number),
        task="judge",
        role="judge",
        summary="which of those answers the judge prefers",
        takes={"rows": _named("sample", number), "backend.model": "assistant"},
        tiny={**tiny, **({"make.labelled": "builtin:preferences"} if number == 1 else {})},
    )


def _of_pairs(
    method: str, summary: str, of: str, judged: str, number: int, *, learning_rate: float, epochs: int
) -> Stage:
    """A run of a method that takes the judge's pairs, begun from a policy."""
    return Stage(
        name=_named(method, number),
        method=method,
        summary=summary,
        takes={"model.name_or_path": of, "data.path": judged},
        tiny={
            "data.eval_path": "builtin:preferences",
            "train.learning_rate": learning_rate,
            "train.num_train_epochs": epochs,
            "train.per_device_train_batch_size": 16,
        },
    )


def _ppo(of: str, number: int, prompts: str, *, reward: str = "", role: str = "") -> Stage:
    takes = {"model.name_or_path": of, **({"method.reward_model": reward} if reward else {"method.judge": "assistant"})}
    tiny = {"data.path": prompts, "train.learning_rate": 1e-4, "train.num_train_epochs": 1}
    tiny |= {"train.per_device_train_batch_size": 32, "method.max_new_tokens": 32, "method.kl_coef": 0.1}
    return Stage(
        name=_named("ppo", number),
        method="ppo",
        role=role,
        summary="a policy whose answers score higher" if reward else "a policy whose answers the judge says yes to",
        takes=takes,
        tiny={**tiny, **({} if reward else {"method.judge_constitution": "builtin:principles"})},
    )
