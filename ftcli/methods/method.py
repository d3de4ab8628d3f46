"""What a training method declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.core.errors import Problem
from ftcli.settings.backends import OWN_WEIGHTS
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.limits import Limit

MODEL_FIELDS = {"reward_model": "reward_model", "value_model": "reward_model", "teacher_model": "causal_lm"}
"""Fields of methods that name a further model, and the head that it must have."""
NO_MODELS = ("head", "reward_model")
"""Values of such a field that name no model of their own."""
REWARD_FIELDS = ("reward_model", "judge", "rewards", "reward_functions")
"""Fields of methods that sample, any of which says what an answer is worth."""


def further_models(method: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The models that a method's settings name beside the policy: the setting, the name, and its head."""
    for key, head in MODEL_FIELDS.items():
        name = method.get(key)
        if isinstance(name, str) and name and name not in NO_MODELS:
            yield key, name, head
    judge = method.get("judge")
    if isinstance(judge, Mapping) and judge.get("type", "local") in OWN_WEIGHTS and judge.get("model"):
        yield "judge.model", str(judge["model"]), "causal_lm"


def with_model(method: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    """The settings with another name for one of those models."""
    field, _, inner = key.partition(".")
    return {**method, field: {**method[field], inner: name} if inner else name}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training method.

    Trainer and config class are strings `module:Class`, so that a declaration costs no import; a test resolves each
    against the installed library.
    """

    name: str
    summary: str
    """One line that says when to choose it."""
    trainer: str
    config: str
    task: str
    """Which built-in set and which tokens it trains: pretrain, sft, instruct or preference."""
    kinds: tuple[str, ...]
    """Kinds of canonical rows it takes (see data/formats.py), the preferred first."""
    templates_pairs: bool = False
    """Whether pairs of plain text are rendered as turns through the chat template."""
    roles: tuple[str, ...] = ("policy",)
    """Models in memory: policy, reference, reward, value, teacher."""
    head: str = "causal_lm"
    """What it trains: a causal_lm, or a reward_model (a sequence classifier with one score per row)."""
    below_the_adapter: bool = False
    """Whether its loss calls the layers themselves, so that vectors which an adapter puts before the input are lost."""
    joins_prompt: bool = False
    """Whether its trainer takes prompt and answer as one sequence."""
    score: str
    """Its own held-out measure: exact_match, preference_accuracy, mean_reward or none."""
    learning_rates: tuple[float, float]
    """Derived learning rate with all parameters, and with an adapter."""
    paper: str
    next_method: str = "dpo"
    """What is usually trained next on its result."""
    min_batch: int = 1
    """The fewest rows that a device's batch may hold."""
    packs: bool = False
    """Whether rows may share a block (its trainer config has `packing`)."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Trainer-config fields set unless the user says otherwise."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Trainer-config fields that make it this method, which no one else may set."""
    without: tuple[str, ...] = ()
    """Trainer-config fields that mean nothing to it."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    block_tokens: int | None = None
    """Length of the blocks that it cuts text into unless `data.max_length_tokens` says otherwise; None: rows stay."""
    overflow: str = "drop"
    steps_per_epoch: Callable[[Mapping[str, Any], BatchPlan, int], int] | None = None
    """Optimiser steps of one epoch where they are not rows over batch: from the method's settings, the batch and the
    number of rows."""
    check: Callable[[Mapping[str, Any]], list[Problem]] | None = None
    """Rules among its own fields: the resolved method tree in, problems out."""

    @property
    def trains_answers(self) -> bool:
        """Whether rows are answers, which have an end; text alone may have none, and a prompt has no answer yet."""
        return not {"text", "prompt"} >= set(self.kinds)

    @property
    def samples(self) -> bool:
        """Whether the policy samples its answers while it trains."""
        return "prompt" in self.kinds

    @property
    def rewarded(self) -> bool:
        """Whether sampled answers are judged by rewards."""
        return "reward" in self.roles
