"""The backends that answer in a synthesis stage, or judge during a run, by their type."""

from __future__ import annotations

from typing import Any

from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import Backend
from ftcli.synthesis.openai_backend import Endpoint
from ftcli.synthesis.regex_backend import Rules


def backend_of(settings: BackendSettings, key: str, request: dict[str, Any]) -> Backend:
    """Whoever answers.

    Args:
        key: the setting that describes it, for errors.
        request: the grants under which a model is loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    if settings.type == "openai":
        return Endpoint(settings, key)
    if settings.type == "rules":
        return Rules(settings)
    if settings.type == "vllm":
        from ftcli.worker.inference.backend_vllm import Vllm

        return Vllm(settings, key, request)
    from ftcli.worker.inference.backend_transformers import LocalModel

    return LocalModel(settings, request)
