"""The backends that answer in a synthesis stage, or judge during a run, by their type."""

from __future__ import annotations

import pkgutil
from typing import Any

from ftcli.settings.backends import BACKENDS, BackendSettings
from ftcli.synthesis.backend import Backend


def backend_of(settings: BackendSettings, key: str, request: dict[str, Any]) -> Backend:
    """Whoever answers. Only its own module is imported: vLLM is not installed everywhere.

    Args:
        key: the setting that describes it, for errors.
        request: the grants under which a model is loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    backend: Backend = pkgutil.resolve_name(BACKENDS[settings.type].answered_by)(settings, key, request)
    return backend
