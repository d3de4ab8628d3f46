"""The backends of synthesis stages and of AI judges, by type."""

from __future__ import annotations

import pkgutil
from typing import Any

from ftcli.settings.backends import BACKENDS, BackendSettings
from ftcli.synthesis.backend import Backend


def backend_of(settings: BackendSettings, key: str, request: dict[str, Any]) -> Backend:
    """The backend of these settings. Only its own module is imported: vLLM is not installed everywhere.

    Args:
        key: the setting that describes it, for errors.
        request: the grants for loading a model.

    Raises:
        ConfigError: it is not available.
    """
    backend: Backend = pkgutil.resolve_name(BACKENDS[settings.type].answered_by)(settings, key, request)
    return backend
