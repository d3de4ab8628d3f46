"""A judge of rules: regular expressions in a model's place, for tests and where a rule can tell right from wrong.

It answers only questions with choices, and reads the answers in question themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import Ask, Reply


class Rules:
    """Says yes, or which of two, by whether one of the forbidden patterns is found."""

    batch_size: int | None = 64
    concurrency = 1

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        self.patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.patterns or ()]
        if not self.patterns:
            fix = "give judge.patterns=[…], any of which makes an answer a bad one"
            raise ConfigError(Problem("judge=rules", "there are no rules", fix))
        self.requests = 0

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """As its protocol says.

        Raises:
            ConfigError: an ask without choices.
        """
        self.requests += len(asks)
        return [self._reply(ask) for ask in asks]

    def _reply(self, ask: Ask) -> Reply:
        if not ask.about:
            raise ConfigError(Problem("generator=rules", "rules say no words", "use local or openai"))
        bad = [any(pattern.search(answer) for pattern in self.patterns) for answer in ask.about]
        first = not bad[0] if len(bad) == 1 else bad[1] and not bad[0]
        return Reply(text=ask.choices[0] if first else ask.choices[1])

    def about(self) -> dict[str, Any]:
        """As its protocol says."""
        return {"type": "rules", "model": None, "requests": self.requests}
