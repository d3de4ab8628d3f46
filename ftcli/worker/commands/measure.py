"""What greedy answers of a model to held-out prompts are worth by rules: how a pipeline measures its policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ftcli.data.row_sets import set_file
from ftcli.data.scan import Example
from ftcli.settings.groups import ModelSettings
from ftcli.worker.inference.examples import examples_of
from ftcli.worker.models.answer_ends import answering
from ftcli.worker.models.load import as_granted, make_encoder
from ftcli.worker.process.command import lines
from ftcli.worker.rewards.mixture import Rewards

SCHEMA = 1


def measure_policies(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The mean of each metric for each model, in order.

    Args:
        request: {"models": {name: model}, "data": file or built-in set, "measures": {name: rewards}, "max_new_tokens",
            "trust_remote_code"}.

    Returns:
        {"schema", "name", "model", "rows", "measures": {name: mean}} for each.

    Raises:
        ConfigError: no such model.
    """
    examples = list(examples_of(set_file(str(request["data"]), "eval"), ("prompt",)))
    for name, model in request["models"].items():
        settings = as_granted(ModelSettings(name_or_path=str(model)), request)
        about = {"schema": SCHEMA, "name": name, "model": str(model), "rows": len(examples)}
        yield {**about, "measures": _means(settings, examples, request)}


def _means(settings: ModelSettings, examples: Sequence[Example], request: dict[str, Any]) -> dict[str, float]:
    encoder = make_encoder(settings)
    model = answering(settings, encoder)
    found = {}
    for name, rewards in request["measures"].items():
        with torch.no_grad():
            rule = Rewards({"rewards": rewards}, encoder, request)
            total, rows = rule.of_greedy(model, examples, request["max_new_tokens"])["mean_reward"]
        found[name] = total / rows
    return found


COMMAND = lines(measure_policies, "measuring policies")
