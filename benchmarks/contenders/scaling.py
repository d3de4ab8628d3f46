"""What more of one thing costs ftcli: a second process, and more tokens in a packed step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from contenders import by_ftcli
from contenders.files import make_all, uniform_rows, work_of
from contenders.run import BUILD, run
from contenders.work import Work

_ROWS, _STEPS = 96, 10
_AT_ONCE = "1 and 1"
_BLOCKS = (1024, 2048, 4096, 8192)
_DOCUMENTS = 4
"""Of a row of 1,024 tokens."""


def processes(model: Path, demo: Path, python: Path, pairs: int) -> dict[str, Any]:
    """Real tokens a second of two gloo processes beside one, each with one thread and the same rows a process.

    Beside that, of two commands of one process that run at once and wait for nothing: what the machine's second core
    adds.
    """
    rows = make_all(BUILD / "contenders", demo, "sft", _ROWS)
    works = {number: work_of("sft", model, rows, batch=4, processes=number) for number in (1, 2)}
    found: dict[str, list[float]] = {"1": [], "2": [], _AT_ONCE: []}

    def speed(number: int) -> float:
        return run(by_ftcli.CONTENDER, python, replace(works[number], steps=_STEPS)).tokens_per_second or 0.0

    for number in range(pairs):
        for each in (1, 2) if number % 2 == 0 else (2, 1):
            found[str(each)].append(speed(each))
        with ThreadPoolExecutor(2) as both:
            found[_AT_ONCE].append(sum(both.map(speed, (1, 1))))
    ratios, at_once = (
        [two / one for one, two in zip(found["1"], found[name], strict=True)] for name in ("2", _AT_ONCE)
    )
    medians = {"median_ratio": round(median(ratios), 3), "median_ratio_at_once": round(median(at_once), 3)}
    return {"tokens_per_second": found, "ratios": ratios, **medians}


def blocks(model: Path, python: Path, pairs: int) -> dict[str, Any]:
    """Seconds of a packed step by its tokens, of documents of one length, and of a token beside the first's."""
    found: dict[int, list[float]] = {block: [] for block in _BLOCKS}
    tokens: dict[int, float] = {}
    for number in range(pairs):
        for block in _BLOCKS if number % 2 == 0 else reversed(_BLOCKS):
            work = _packed(model, block)
            seen = run(by_ftcli.CONTENDER, python, work)
            found[block].append(seen.step_seconds or 0.0)
            tokens[block] = seen.tokens / seen.steps
    first = median(found[_BLOCKS[0]]) / tokens[_BLOCKS[0]]
    return {
        "step_seconds": {str(block): [round(each, 4) for each in times] for block, times in found.items()},
        "tokens_a_step": {str(block): round(each) for block, each in tokens.items()},
        "cost_of_a_token": {
            str(block): round(median(times) / tokens[block] / first, 3) for block, times in found.items()
        },
    }


def _packed(model: Path, block: int) -> Work:
    rows = uniform_rows(BUILD / "contenders", _STEPS * _DOCUMENTS * block // 1024)
    return work_of("sft", model, rows, batch=1, packed=True, longest=block)
