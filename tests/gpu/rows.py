"""Rows of a wanted length in tokens, made of the built-in conversations.

Each row ends below its length by less than one turn, so that a plan and a run see nearly equal rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from ftcli import tiny

_ROLE_TOKENS = 4
"""At most so many tokens of a turn come from the chat template."""
Turn = tuple[int, list[dict[str, str]]]


def _turns() -> Iterator[Turn]:
    """Questions with their answers and the tokens of both, over and over."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny.MODEL_DIR / "tokenizer.json"))
    found = []
    for line in tiny.set_path("sft", "train").read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["messages"]
        size = sum(len(tokenizer.encode(turn["content"]).ids) + _ROLE_TOKENS for turn in turns)
        found.append((size, turns))
    yield from cycle(found)


def _conversation(turns: Iterator[Turn], tokens: int) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    while True:
        size, pair = next(turns)
        if size > tokens:
            return messages or pair
        messages, tokens = [*messages, *pair], tokens - size


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def conversations(folder: Path, count: int, tokens: int, least: int | None = None) -> Path:
    """A file of so many conversations of so many tokens; of between `least` and so many where that is given."""
    turns = _turns()
    lengths = [tokens if least is None else least + (tokens - least) * (n * 7 % count) // count for n in range(count)]
    rows = [{"messages": _conversation(turns, length)} for length in lengths]
    return _write(folder / "rows" / f"conversations-{count}-{least or tokens}-{tokens}.jsonl", rows)


def preferences(folder: Path, count: int, tokens: int) -> Path:
    """A file of so many pairs, each answer of half the tokens after a conversation of the other half."""
    turns = _turns()
    rows = []
    for _ in range(count):
        prompt = _conversation(turns, tokens // 2)[:-1]
        good, bad = (
            " ".join(turn["content"] for turn in _conversation(turns, tokens // 2) if turn["role"] == role)
            for role in ("assistant", "user")
        )
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (good, bad))
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return _write(folder / "rows" / f"preferences-{count}-{tokens}.jsonl", rows)
