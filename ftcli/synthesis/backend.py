"""What a data-making task asks of a backend, what it gets, and what a backend needs of this machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.backends import BACKENDS, BackendSettings

Turns = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question. With `choices` it is answered by one of them."""

    turns: Turns
    temperature: float
    max_new_tokens: int
    seed: int
    choices: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    """The answers in question, one or two, where it has choices."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, with the tokens that it took."""

    text: str
    choice_logps: tuple[float, ...] | None = None
    """Log-probability of each choice, where the backend gives it."""
    prompt_tokens: int = 0
    answer_tokens: int = 0


class BudgetSpent(Exception):
    """A backend may ask no more; the message says which budget."""


class Backend(Protocol):
    """Whoever answers."""

    batch_size: int | None
    """Items that are asked for together and finished together; None: each by itself, several at once."""
    concurrency: int
    """Items at once, where each is asked for by itself."""

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each ask.

        Raises:
            BudgetSpent: before anything was asked that is not answered.
            FtcliError: it cannot answer at all.
        """
        ...

    def about(self) -> dict[str, Any]:
        """What it is and what it used: kind, model, requests, retries, tokens. No secrets."""
        ...


def require_backend(settings: BackendSettings, key: str) -> None:
    """What a backend of any type needs of this machine.

    Args:
        key: the setting that describes it, for errors: generator, judge or method.judge.

    Raises:
        ConfigError: a package is not installed, or the key's variable is not set.
    """
    backend = BACKENDS[settings.type]
    if backend.package and importlib.util.find_spec(backend.package) is None:
        raise ConfigError(Problem(f"{key}={backend.name}", backend.missing.format(key=key), backend.remedy))
    if backend.endpoint and not os.environ.get(settings.api_key_env):
        what = f"the environment has no {settings.api_key_env}, which holds the key"
        raise ConfigError(Problem(f"{key}.api_key_env", what, f"export {settings.api_key_env}=…"))
