"""Who answers in a data-making stage: the groups `generator` and `judge` of pipelines, and the types of backend.

A module in this folder that defines `BACKEND` declares the type of its name; nothing else registers one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftcli.core.declarations import declarations
from ftcli.settings.backend_declaration import BackendType

BACKENDS: Mapping[str, BackendType] = declarations(__name__, "BACKEND")
"""The types by name."""
OWN_WEIGHTS = tuple(name for name, backend in BACKENDS.items() if backend.own_weights)
"""Types of backend that load a model here."""
ENDPOINTS = tuple(name for name, backend in BACKENDS.items() if backend.endpoint)
"""Types of backend that send rows elsewhere; a file may name one only where the command line grants it."""
WITHOUT_MODEL = tuple(name for name in BACKENDS if name not in (*OWN_WEIGHTS, *ENDPOINTS))
"""Types of backend that ask no model."""
ROLES = ("generator", "judge")
"""Groups that a pipeline has beside those of a run."""
_OF_CHOICES = ("logprobs",)
"""Settings of questions with choices, which only a judge is asked."""


def unread(name: str, backend: str, key: str) -> tuple[str, str] | None:
    """What to say of a setting without effect, and the remedy; None where a backend of this type reads it.

    Args:
        name: the setting, without its group.
        backend: a type of backend. Of an unknown one nothing is said, nor of an unknown setting.
        key: the setting that describes it: generator, judge or method.judge.
    """
    readers = [each.name for each in BACKENDS.values() if name in each.reads]
    if backend not in BACKENDS or not readers:
        return None
    if name in _OF_CHOICES and key == "generator":
        return "is read only of a judge, who answers by choices", "remove it"
    if name in BACKENDS[backend].reads:
        return None
    wanted = f"{key}.type={readers[0]}" if "." in key else f"{key}={readers[0]}"
    what = f"is not read by a backend of type {backend}, only by {' or '.join(readers)}"
    return what, f"choose {wanted}, or remove it"


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """A backend and what it may use."""

    type: str = field(default="local", metadata={"declared_in": "ftcli.settings.backends"})
    """local: a model through transformers; vllm: the same through vLLM; openai: any endpoint of that form; rules:
    patterns, no model."""
    model: str | None = None
    """local, vllm: a run, folder or hub id, null for the model that the pipeline has made by then; openai: the model's
    name there."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    base_url: str | None = None
    """openai: the endpoint, such as http://localhost:8000/v1; null is the package's default."""
    api_key_env: str = "OPENAI_API_KEY"
    """openai: the environment variable that holds the key; the key itself is never written anywhere."""
    batch_size: int = 32
    """local, vllm: items that are asked for together."""
    concurrency: int = 8
    """openai: items that are under way at once."""
    timeout_seconds: float = 60.0
    """openai: how long one reply may take."""
    max_retries: int = 8
    """openai: further tries of a request that met a 429, a 5xx, a timeout or a lost connection."""
    max_requests: int | None = None
    """openai: requests that the stage may make, retries included; it stops cleanly when they are spent."""
    max_tokens: int | None = None
    """openai: tokens that the stage may use, asked and answered."""
    logprobs: bool = True
    """openai: ask for log-probabilities of choices; where the endpoint has none the reply is read instead."""
    gpu_memory_utilization: float = 0.9
    """vllm: share of the GPU's memory that it takes."""
    max_model_length: int | None = None
    """vllm: longest question and reply together; null is the model's."""
    patterns: list[str] | None = None
    """rules: regular expressions, any of which makes an answer a bad one."""
