"""Answers of one of ftcli's backends, for the environment of `make vllm`, where this is run:

python -m tests.external.deployed.vllm_answers TYPE MODEL      JSON: of each question the reply
python -m tests.external.deployed.vllm_answers --takes         JSON: the names of what an engine and its sampling take
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

ASKED = ("Add 3 and 4 for me.", "Which colour has a banana?", "Spell cat.")
CHOICES = (" a cat", " no")


def replies(kind: str, model: str) -> list[dict[str, Any]]:
    """Greedy answers, then what the model makes of choices."""
    from ftcli.settings.backends import BackendSettings
    from ftcli.synthesis.backend import Question
    from ftcli.worker.inference.backends import backend_of

    how: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 12, "seed": 1}
    asked = [Question(turns=[{"role": "user", "content": text}], **how) for text in ASKED]
    chosen = [dataclasses.replace(each, choices=CHOICES) for each in asked]
    settings = BackendSettings(type=kind, model=model, gpu_memory_utilization=0.1)
    return [dataclasses.asdict(each) for each in backend_of(settings, "generator", {}).replies([*asked, *chosen])]


def takes() -> dict[str, list[str]]:
    """The names of settings of vLLM's engine, and of sampling."""
    import vllm  # type: ignore[import-not-found]
    from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found]

    engine = {*inspect.signature(vllm.LLM.__init__).parameters, *(each.name for each in dataclasses.fields(EngineArgs))}
    return {"engine": sorted(engine), "sampling": sorted(inspect.signature(vllm.SamplingParams).parameters)}


def update(model: str) -> str:
    """What an engine in this process, as TRL makes one, says when it is handed the weights that it has once more."""
    import vllm
    from safetensors.torch import load_file

    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    os.environ.update(alone, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    how: dict[str, Any] = {"gpu_memory_utilization": 0.1, "max_model_len": 64, "enforce_eager": True}
    engine = vllm.LLM(model=model, distributed_executor_backend="external_launcher", **how).llm_engine
    try:
        weights = load_file(Path(model) / "model.safetensors")
        engine.model_executor.driver_worker.model_runner.model.load_weights(list(weights.items()))
    except (AssertionError, AttributeError) as error:
        return str(error)
    return "taken"


if __name__ == "__main__":  # its engine is a process that imports this module again
    what, *more = sys.argv[1:]
    found = takes() if what == "--takes" else update(*more) if what == "--update" else replies(what, *more)
    sys.stdout.write(f"\n{json.dumps(found)}\n")
