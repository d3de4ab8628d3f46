"""Twenty small sets, each of a kind that people bring, written row by row here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

_WORDS = ("rain", "roof", "cat", "town", "bread", "river", "early", "old", "people", "went", "over", "home", "by")
_DRAWN = random.Random(7)


def words(count: int) -> str:
    """So many words, different each time."""
    return " ".join(_DRAWN.choice(_WORDS) for _ in range(count))


def _asked(number: int) -> str:
    return f"Question {number}: {words(8)}?"


def _turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def _said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def _call(number: int) -> dict[str, Any]:
    called = {"type": "function", "function": {"name": "look_up", "arguments": {"number": number}}}
    asked = [{"role": "user", "content": _asked(number)}, {"role": "assistant", "content": "", "tool_calls": [called]}]
    answered = [{"role": "tool", "content": words(4)}, {"role": "assistant", "content": words(9)}]
    return {"messages": [*asked, *answered]}


def _thought(number: int) -> dict[str, Any]:
    answer = {"role": "assistant", "content": words(5), "reasoning_content": words(12)}
    return {"messages": [{"role": "user", "content": _asked(number)}, answer]}


def _rows(count: int, row: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


class SmallSet(NamedTuple):
    """A set and the goal that it is advised for; None leaves the goal to be assumed."""

    rows: list[dict[str, Any]]
    goal: str | None
    kind: str


def _pair(length: int) -> Callable[[int], dict[str, Any]]:
    return lambda number: {"prompt": _asked(number), "completion": words(length)}


def _preference(number: int) -> dict[str, Any]:
    return {"prompt": _asked(number), "chosen": words(12), "rejected": words(7)}


def _sum(number: int) -> dict[str, Any]:
    return {"prompt": f"What is {number} plus {number % 7}?", "answer": str(number + number % 7)}


SETS: dict[str, SmallSet] = {
    "novel": SmallSet(_rows(60, lambda n: {"text": words(80)}), None, "text"),
    "poems": SmallSet(_rows(120, lambda n: {"text": words(25)}), "task", "text"),
    "laws": SmallSet(_rows(40, lambda n: {"text": f"Section {n}. {words(200)}"}), "knowledge of the law", "text"),
    "classes": SmallSet(
        _rows(150, lambda n: {"prompt": _asked(n), "completion": ("good", "bad")[n % 2]}), "classify", "pair"
    ),
    "twelve_examples": SmallSet(_rows(12, _pair(20)), "task", "pair"),
    "letters": SmallSet(_rows(240, _pair(40)), "task", "pair"),
    "many_answers": SmallSet(_rows(1200, _pair(30)), "task", "pair"),
    "alpaca": SmallSet(
        _rows(110, lambda n: {"instruction": _asked(n), "input": words(6), "output": words(20)}), "assistant", "pair"
    ),
    "chats": SmallSet(
        _rows(60, lambda n: {"messages": _turns(_asked(n), words(9), words(5), words(8))}), None, "messages"
    ),
    "sharegpt": SmallSet(
        _rows(50, lambda n: {"conversations": [_said("human", _asked(n)), _said("gpt", words(9))]}),
        "an assistant that helps customers",
        "messages",
    ),
    "tools": SmallSet(_rows(40, _call), "assistant", "messages"),
    "reasoning": SmallSet(_rows(40, _thought), "assistant", "messages"),
    "sums": SmallSet(_rows(64, _sum), None, "prompt"),
    "quiz": SmallSet(
        _rows(64, lambda n: {"question": _asked(n), "answer": ("yes", "no")[n % 2]}), "checkable", "pair"
    ),
    "pairs": SmallSet(_rows(700, _preference), None, "preference"),
    "few_pairs": SmallSet(_rows(90, _preference), "preferences", "preference"),
    "pairs_one_prompt": SmallSet(
        _rows(600, lambda n: {**_preference(n), "prompt": f"Question {n % 40}?"}), "preferences", "preference"
    ),
    "thumbs": SmallSet(
        _rows(120, lambda n: {"prompt": _asked(n), "completion": words(10), "label": n % 3 > 0}), None, "label"
    ),
    "provoking_prompts": SmallSet(_rows(40, lambda n: {"prompt": _asked(n)}), "safety by principles", "prompt"),
    "bare_prompts": SmallSet(_rows(40, lambda n: {"prompt": _asked(n)}), None, "prompt"),
}  # fmt: skip


def write(folder: Path, names: Iterable[str] = tuple(SETS)) -> None:
    """Write the sets into a folder, a file each."""
    for name in names:
        text = "".join(json.dumps(row) + "\n" for row in SETS[name].rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
