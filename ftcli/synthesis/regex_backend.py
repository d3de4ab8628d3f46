"""A rule-based judge: regular expressions in place of a model, for tests and where a rule can decide.

It replies only to questions with choices, and matches the answers that they are about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted.bounded_pattern import bounded
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import Question, Reply


class Rules:
    """Replies yes or no, or which of two answers is better, by whether a forbidden pattern matches."""

    batch_size: int | None = 64
    concurrency = 1

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        try:
            self.patterns = [bounded(pattern, re.IGNORECASE) for pattern in settings.patterns or ()]
        except ValueError as error:
            raise ConfigError(Problem("judge.patterns", str(error), "write patterns that re.compile takes")) from None
        if not self.patterns:
            fix = "set judge.patterns=[…]; an answer that matches one of them is bad"
            raise ConfigError(Problem("judge=rules", "there are no rules", fix))
        self.requests = 0

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """As in the protocol.

        Raises:
            ConfigError: a question without choices.
        """
        self.requests += len(questions)
        return [self._reply(question) for question in questions]

    def _reply(self, question: Question) -> Reply:
        if not question.about:
            raise ConfigError(Problem("generator=rules", "rules cannot generate text", "use local or openai"))
        bad = [any(pattern.search(answer) for pattern in self.patterns) for answer in question.about]
        first = not bad[0] if len(bad) == 1 else bad[1] and not bad[0]
        return Reply(text=question.choices[0] if first else question.choices[1])

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        return {"type": "rules", "model": None, "requests": self.requests}
