"""An AI judge as a reward (direct RLAIF; Lee et al. 2023, arXiv:2309.00267).

It uses the same prompts and backends as a synthesis stage in `score` mode: does an answer follow a principle?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ftcli.core.errors import InterruptedRun, Problem
from ftcli.settings.backends import BackendSettings
from ftcli.synthesis import principles
from ftcli.synthesis.backend import Backend, BudgetSpent
from ftcli.synthesis.journal import Item, digest_of
from ftcli.synthesis.tasks import Judge, JudgeSettings, mean_yes
from ftcli.worker.inference.backends import backend_of
from ftcli.worker.process import interruption
from ftcli.worker.process.own_lines import say

_REMEMBERED = 100_000
"""Verdicts kept in memory, so that no answer is judged twice."""


def judge_of(method: Mapping[str, Any], request: dict[str, Any]) -> JudgeReward | None:
    """The judge that a spec's `method` tree names, or None.

    Raises:
        ConfigError: its backend is unavailable, or its principles are invalid.
    """
    if not method.get("judge"):
        return None
    backend = backend_of(BackendSettings(**method["judge"]), "method.judge", request)
    named = method.get("judge_constitution")
    settings = JudgeSettings(mode="score", principles_each=int(method.get("judge_principles") or 1))
    return JudgeReward(backend, Judge(settings, seed=0, principles=principles.named(named)))


class JudgeReward:
    """The mean probability of yes over the principles drawn for an answer's prompt."""

    def __init__(self, backend: Backend, judge: Judge) -> None:
        self._backend, self._judge = backend, judge
        self._known: dict[tuple[str, str], float] = {}
        self.unreadable = 0

    def __call__(self, prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        """A number from 0 to 1 for each answer; an unreadable verdict counts as no, and the first is reported.

        Raises:
            InterruptedRun: the backend's budget is spent.
        """
        keys = [(digest_of(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
        unjudged = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        if len(self._known) + len(unjudged) > _REMEMBERED:
            unjudged = dict(zip(keys, prompts, strict=True))
            self._known.clear()
        work = [(Item(key, {"prompt": prompt}), [answer]) for (key, answer), prompt in unjudged.items()]
        try:
            for number, (key, replies) in enumerate(zip(unjudged, self._verdicts(work), strict=True)):
                interruption.reached(number, len(unjudged), "verdicts")
                self._known[key] = self._probability(replies)
        except BudgetSpent as spent:
            fix = (
                "raise the budget under method.judge in spec.json, and continue from the last checkpoint with --resume"
            )
            raise InterruptedRun(Problem("method.judge", f"stopped: {spent}", fix)) from None
        return [self._known[key] for key in keys]

    def _verdicts(self, work: Sequence[tuple[Item, list[str]]]) -> Iterator[list[dict[str, Any]]]:
        size = self._backend.batch_size
        if size:
            for start in range(0, len(work), size):
                yield from self._judge.kept(work[start : start + size], self._backend.replies)
            return
        pool = ThreadPoolExecutor(max(1, self._backend.concurrency))
        try:
            for [found] in pool.map(lambda one: self._judge.kept([one], self._backend.replies), work):
                yield found
        finally:
            # A stop waits for no reply: each may take as long as the endpoint's timeout.
            pool.shutdown(wait=not interruption.name(), cancel_futures=True)

    def _probability(self, replies: Sequence[Mapping[str, Any]]) -> float:
        unreadable = [reply for reply in replies if reply["yes"] is None]
        if unreadable:
            if not self.unreadable:
                say(f"the judge's verdict is neither yes nor no: {unreadable[0]['told']!r}")
            self.unreadable += 1
        return mean_yes([{**reply, "yes": reply["yes"] or 0.0} for reply in replies], 0)
