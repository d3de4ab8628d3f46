"""A rule-based judge: regular expressions in place of a model, for tests and where a rule can decide.

It replies only to questions with choices, and matches the answers that they are about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import Ask, Reply


class Rules:
    """Replies yes or no, or which of two answers is better, by whether a forbidden pattern matches."""

    batch_size: int | None = 64
    concurrency = 1

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        self.patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.patterns or ()]
        if not self.patterns:
            fix = "set judge.patterns=[…]; an answer that matches one of them is bad"
            raise ConfigError(Problem("judge=rules", "there are no rules", fix))
        self.requests = 0

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """As in the protocol.

        Raises:
            ConfigError: a question without choices.
        """
        self.requests += len(asks)
        return [self._reply(ask) for ask in asks]

    def _reply(self, ask: Ask) -> Reply:
        if not ask.about:
            raise ConfigError(Problem("generator=rules", "rules cannot generate text", "use local or openai"))
        bad = [any(pattern.search(answer) for pattern in self.patterns) for answer in ask.about]
        first = not bad[0] if len(bad) == 1 else bad[1] and not bad[0]
        return Reply(text=ask.choices[0] if first else ask.choices[1])

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        return {"type": "rules", "model": None, "requests": self.requests}
