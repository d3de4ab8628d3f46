"""Any OpenAI-compatible endpoint, through the openai package: concurrent requests, retries, and a budget."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis.backend import BudgetSpent, Question, Reply, require_backend

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0


class Endpoint:
    """A model behind a URL."""

    batch_size: int | None = None

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        """
        Args:
            key: the role's name, for errors: generator or judge.
            request: unused, since no model is loaded here.

        Raises:
            ConfigError: the package is not installed, or the key's variable is not set.
        """
        require_backend(settings, key)
        import openai

        secret = os.environ[settings.api_key_env]
        self._openai, self._settings, self._key = openai, settings, key
        self._client = openai.OpenAI(
            api_key=secret, base_url=settings.base_url, timeout=settings.timeout_seconds, max_retries=0
        )
        self.concurrency = settings.concurrency
        self._lock = threading.Lock()
        self._logprobs = settings.logprobs
        self.requests = self.retries = self.prompt_tokens = self.answer_tokens = 0
        self.notices: list[str] = []

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """As in the protocol."""
        return [self._reply(question) for question in questions]

    def _reply(self, question: Question) -> Reply:
        wait, last = _FIRST_WAIT_SECONDS, Exception()
        for attempt in range(self._settings.max_retries + 1):
            self._spend(attempt)
            try:
                return self._request(question)
            except self._openai.BadRequestError as error:
                if not (question.choices and self._logprobs):
                    raise self._refused(error) from None
                self._without_logprobs(error)
            except (self._openai.RateLimitError, self._openai.InternalServerError) as error:
                last, wait = error, self._pause(wait, error)
            except (self._openai.APITimeoutError, self._openai.APIConnectionError) as error:
                last, wait = error, self._pause(wait, None)
            except self._openai.APIStatusError as error:
                raise self._refused(error) from None
        where = f"{self._key}.base_url={self._client.base_url}"
        what = f"did not answer in {self._settings.max_retries + 1} attempts; last error: {_first_line(last)}"
        fix = "check that it is running, then resume with --resume and --allow-endpoint; nothing is lost"
        raise ConfigError(Problem(where, what, fix))

    def _spend(self, attempt: int) -> None:
        """Count a request; raise where the budget is spent."""
        s = self._settings
        with self._lock:
            used = self.prompt_tokens + self.answer_tokens
            if s.max_requests is not None and self.requests >= s.max_requests:
                raise BudgetSpent(f"{self._key}.max_requests={s.max_requests} is spent")
            if s.max_tokens is not None and used >= s.max_tokens:
                raise BudgetSpent(f"{self._key}.max_tokens={s.max_tokens} is spent ({used} used)")
            self.requests += 1
            self.retries += attempt > 0

    def _request(self, question: Question) -> Reply:
        more: dict[str, Any] = {}
        if question.choices and self._logprobs:
            more = {"logprobs": True, "top_logprobs": 20}
        found = self._client.chat.completions.create(
            model=str(self._settings.model),
            messages=cast(Any, question.turns),
            temperature=question.temperature,
            max_tokens=question.max_new_tokens,
            seed=question.seed,
            **more,
        )
        usage = found.usage
        prompt_tokens, answer_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens
        choice = found.choices[0]
        logprobs = choice.logprobs.content if more and choice.logprobs else None
        if more and not logprobs:
            self._without_logprobs("it returned none")
        return Reply(
            text=choice.message.content or "",
            choice_logps=_of_choices(logprobs[0].top_logprobs, question.choices) if logprobs else None,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
        )

    def _without_logprobs(self, why: object) -> None:
        with self._lock:
            if self._logprobs:
                self._logprobs = False
                self.notices.append(f"no log-probabilities from {self._key}, so verdicts are read from replies ({why})")

    def _pause(self, wait: float, error: Any) -> float:
        """Wait as long as the endpoint requests, else with exponential backoff; returns the next wait."""
        headers = getattr(getattr(error, "response", None), "headers", {})
        try:
            requested = float(headers.get("retry-after", ""))
        except ValueError:
            requested = 0.0
        time.sleep(min(max(requested, wait * (0.5 + random.random())), _LONGEST_WAIT_SECONDS))
        return min(wait * 2, _LONGEST_WAIT_SECONDS)

    def _refused(self, error: Any) -> ConfigError:
        where = f"{self._key}.base_url={self._client.base_url}"
        return ConfigError(
            Problem(where, f"rejected the request: {_first_line(error)}", "check the model's name and the key")
        )

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        return {
            "type": "openai",
            "model": self._settings.model,
            "base_url": self._settings.base_url,
            "requests": self.requests,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            **({"notices": self.notices} if self.notices else {}),
        }


def _first_line(error: Exception) -> str:
    """The first line of an endpoint's error message."""
    return str(getattr(error, "message", error)).split("\n", 1)[0][:300]


def _of_choices(tokens: Any, choices: Sequence[str]) -> tuple[float, ...] | None:
    """The log-probability of each choice by its first token; None where one is not among the returned tokens."""
    found = []
    for choice in choices:
        own = [each.logprob for each in tokens if _begins(each.token, choice)]
        if not own:
            return None
        found.append(math.log(sum(math.exp(value) for value in own)))
    return tuple(found)


def _begins(token: str, choice: str) -> bool:
    said = token.strip().casefold()
    return bool(said) and choice.casefold().startswith(said)
