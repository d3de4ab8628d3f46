"""What greedy answers of a model to held-out prompts are worth by rules: how a pipeline measures its policies."""

from __future__ import annotations

from typing import Any

import torch

from ftcli import tiny
from ftcli.settings import ModelSettings
from ftcli.sources import BUILTIN_SETS, is_builtin
from ftcli.worker.judge import examples_of
from ftcli.worker.model import as_granted, best_device, load_trained, make_encoder
from ftcli.worker.rewards import Rewards

SCHEMA = 1


def measure_policy(request: dict[str, Any]) -> dict[str, Any]:
    """The mean of each measure.

    Args:
        request: {"model", "data": file or built-in set, "measures": {name: rewards}, "max_new_tokens",
            "trust_remote_code"}.

    Returns:
        {"schema", "model", "rows", "measures": {name: mean}}.

    Raises:
        ConfigError: no such model.
    """
    settings = as_granted(ModelSettings(name_or_path=str(request["model"])), request)
    device = best_device()
    model = load_trained(settings, seed=0, device=device).to(device).eval()
    encoder = make_encoder(settings)
    path = str(request["data"])
    if is_builtin(path):
        path = str(tiny.set_path(path.removeprefix(BUILTIN_SETS), "eval"))
    examples = list(examples_of(path, ("prompt",)))
    found = {}
    for name, rewards in request["measures"].items():
        with torch.no_grad():
            counts = Rewards({"rewards": rewards}, encoder, request).of_greedy(
                model, examples, request["max_new_tokens"]
            )
        total, rows = counts["mean_reward"]
        found[name] = total / rows
    return {"schema": SCHEMA, "model": str(request["model"]), "rows": len(examples), "measures": found}
