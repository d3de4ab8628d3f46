"""Any endpoint of OpenAI's form, through its package: several requests at once, tried again, and within a budget."""

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
from ftcli.synthesis.backend import Ask, BudgetSpent, Reply, require_backend

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0


class Endpoint:
    """A model behind a URL."""

    batch_size: int | None = None

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        """
        Args:
            key: the role's name, for errors: generator or judge.
            request: unread, since no model is loaded here.

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

    def replies(self, asks: Sequence[Ask]) -> list[Reply]:
        """As its protocol says."""
        return [self._reply(ask) for ask in asks]

    def _reply(self, ask: Ask) -> Reply:
        wait, last = _FIRST_WAIT_SECONDS, Exception()
        for attempt in range(self._settings.max_retries + 1):
            self._spend(attempt)
            try:
                return self._asked(ask)
            except self._openai.BadRequestError as error:
                if not (ask.choices and self._logprobs):
                    raise self._refused(error) from None
                self._without_logprobs(error)
            except (self._openai.RateLimitError, self._openai.InternalServerError) as error:
                last, wait = error, self._pause(wait, error)
            except (self._openai.APITimeoutError, self._openai.APIConnectionError) as error:
                last, wait = error, self._pause(wait, None)
            except self._openai.APIStatusError as error:
                raise self._refused(error) from None
        where = f"{self._key}.base_url={self._client.base_url}"
        what = f"gave no answer in {self._settings.max_retries + 1} tries, at last: {_told(last)}"
        fix = "see that it is up, then go on with --resume and --allow-endpoint; nothing is lost"
        raise ConfigError(Problem(where, what, fix))

    def _spend(self, attempt: int) -> None:
        """Count a request, or stop where the budget is spent."""
        s = self._settings
        with self._lock:
            used = self.prompt_tokens + self.answer_tokens
            if s.max_requests is not None and self.requests >= s.max_requests:
                raise BudgetSpent(f"{self._key}.max_requests={s.max_requests} is spent")
            if s.max_tokens is not None and used >= s.max_tokens:
                raise BudgetSpent(f"{self._key}.max_tokens={s.max_tokens} is spent ({used} used)")
            self.requests += 1
            self.retries += attempt > 0

    def _asked(self, ask: Ask) -> Reply:
        more: dict[str, Any] = {}
        if ask.choices and self._logprobs:
            more = {"logprobs": True, "top_logprobs": 20}
        found = self._client.chat.completions.create(
            model=str(self._settings.model),
            messages=cast(Any, ask.turns),
            temperature=ask.temperature,
            max_tokens=ask.max_new_tokens,
            seed=ask.seed,
            **more,
        )
        usage = found.usage
        prompt_tokens, answer_tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens
        choice = found.choices[0]
        told = choice.logprobs.content if more and choice.logprobs else None
        if more and not told:
            self._without_logprobs("it gave none")
        return Reply(
            text=choice.message.content or "",
            choice_logps=_of_choices(told[0].top_logprobs, ask.choices) if told else None,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
        )

    def _without_logprobs(self, why: object) -> None:
        with self._lock:
            if self._logprobs:
                self._logprobs = False
                self.notices.append(f"no log-probabilities from {self._key}, so verdicts are read from replies ({why})")

    def _pause(self, wait: float, error: Any) -> float:
        """Wait before the next try, as long as the endpoint asks for or longer than before; gives the next wait."""
        headers = getattr(getattr(error, "response", None), "headers", {})
        try:
            asked = float(headers.get("retry-after", ""))
        except ValueError:
            asked = 0.0
        time.sleep(min(max(asked, wait * (0.5 + random.random())), _LONGEST_WAIT_SECONDS))
        return min(wait * 2, _LONGEST_WAIT_SECONDS)

    def _refused(self, error: Any) -> ConfigError:
        where = f"{self._key}.base_url={self._client.base_url}"
        return ConfigError(Problem(where, f"refuses the request: {_told(error)}", "check the model's name and the key"))

    def about(self) -> dict[str, Any]:
        """As its protocol says."""
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


def _told(error: Exception) -> str:
    """The first line of what an endpoint said."""
    return str(getattr(error, "message", error)).split("\n", 1)[0][:300]


def _of_choices(tokens: Any, choices: Sequence[str]) -> tuple[float, ...] | None:
    """The log-probability of each choice by its first token, or None where one is not among those told."""
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
