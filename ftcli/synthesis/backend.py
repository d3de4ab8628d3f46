"""Questions, replies and the protocol of synthesis backends, and what a backend needs on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.settings.backends import BACKENDS, BackendSettings

Turns = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to a backend. With `choices`, the reply is one of them."""

    turns: Turns
    temperature: float
    max_new_tokens: int
    seed: int
    choices: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    """The one or two answers that a question with choices is about."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply, with the tokens that it used."""

    text: str
    choice_logps: tuple[float, ...] | None = None
    """Log-probability of each choice, where the backend returns them."""
    prompt_tokens: int = 0
    answer_tokens: int = 0


class BudgetSpent(Exception):
    """A backend's request or token budget is spent; the message says which."""


class Backend(Protocol):
    """A model, endpoint or set of rules that answers questions."""

    batch_size: int | None
    """Items per batch, asked and finished together; None: items are asked one by one, several at once."""
    concurrency: int
    """Items in progress at once, where they are asked one by one."""

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question.

        Raises:
            BudgetSpent: the budget is spent; raised before a request is sent.
            FtcliError: the backend cannot answer.
        """
        ...

    def about(self) -> dict[str, Any]:
        """Its type and model, and the requests, retries and tokens that it used. No secrets."""
        ...


def backend_problems(settings: Mapping[str, Any], key: str, where: str) -> Iterator[Problem]:
    """What would fail only when the backend is asked: no patterns, one that is none, or an address that is none."""
    address, patterns = settings.get("base_url"), settings.get("patterns")
    if isinstance(address, str) and not re.match(r"https?://[^/]", address):
        yield Problem(where, f"{key}.base_url={address} is no address", f"{key}.base_url=http://localhost:8000/v1")
    if settings.get("type") == "rules" and not patterns:
        fix = f"set {key}.patterns=[…]; an answer that matches one of them is bad"
        yield Problem(where, f"{key} has no rules", fix)
    for pattern in patterns if isinstance(patterns, list) else ():
        try:
            bounded(str(pattern), re.IGNORECASE)
        except ValueError as error:
            yield Problem(where, f"{key}.patterns: {error}", "write patterns that re.compile takes")


def require_backend(settings: BackendSettings, key: str) -> None:
    """Check what a backend of any type needs on this machine.

    Args:
        key: the setting that describes it, for errors: generator, judge or method.judge.

    Raises:
        ConfigError: a package is not installed, or the key's variable is not set.
    """
    backend = BACKENDS[settings.type]
    if backend.package and importlib.util.find_spec(backend.package) is None:
        raise ConfigError(Problem(f"{key}={backend.name}", backend.missing.format(key=key), backend.remedy))
    if backend.endpoint and not os.environ.get(settings.api_key_env):
        what = f"the environment variable {settings.api_key_env} with the API key is not set"
        raise ConfigError(Problem(f"{key}.api_key_env", what, f"export {settings.api_key_env}=…"))
