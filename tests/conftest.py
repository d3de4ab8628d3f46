"""What all tests share: an environment without network, and runs that stay in a temporary folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Whatever a user of this machine has cached, the tests neither see nor change it.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ftcli-cache-")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """The problems that overrides (and a request's other parts) cause, as text."""
    from ftcli.build import spec_of
    from ftcli.compose import Request
    from ftcli.errors import ConfigError

    def find(*overrides: str, **request: object) -> list[str]:
        try:
            spec_of(Request(overrides=overrides, **request))  # type: ignore[arg-type]
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return find


@pytest.fixture
def ftcli() -> list[str]:
    """The command as this environment runs it."""
    return [sys.executable, "-m", "ftcli"]
