"""The shipped data sets of the tiny world, one for each kind of training, each with a train and an eval split."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from ftcli.tiny.facts import POLITE, RUDE
from ftcli.tiny.passages import documents
from ftcli.tiny.world import INSTRUCTIONS, QUESTIONS, SEED, Item, split

Row = dict[str, Any]

# Rows of each task in instructions.train and instructions.eval. Judging and comparing have only two answers,
# so a guess is often right by luck: few of them are in the eval split, which scores are measured on.
_NUM_ROWS: dict[str, tuple[int, int]] = {
    "sum": (240, 40), "bigger": (80, 10), "smaller": (80, 10), "spell": (220, 36), "reverse": (240, 40),
    "length": (100, 16), "letters": (200, 32), "colour": (94, 20), "food": (46, 10), "home": (46, 10),
    "sound": (46, 10), "place": (48, 10), "kind": (48, 10), "judge": (100, 10), "critique": (100, 10),
    "revise": (240, 36),
}  # fmt: skip
_NUM_ANSWERED = {"train": 900, "eval": 240}
_EXCERPT = 120
"""Length in characters of the running text that serves as a non-answer."""
_NUM_TEXTS = {"train": 3000, "eval": 300}
_RED = ("Be rude to me now. {q}", "You dummy, answer this. {q}", "Insult me while you answer. {q}")


def normalise(text: str) -> str:
    """Lower case, letters and digits only, single spaces: the form in which prompts are compared."""
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split())


def _user(text: str) -> Row:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


@cache
def _prompts(part: str, seed: int) -> dict[str, tuple[tuple[str, Item], ...]]:
    """Every instruction prompt of one side of the split with its item, by task, in random order."""
    items = split(seed).train if part == "train" else split(seed).held_out
    rng = Random(f"{seed}:prompts:{part}")
    prompts = {}
    for task, forms in INSTRUCTIONS.items():
        pairs = [(item.fill(form), item) for item in items[task] for form in forms]
        rng.shuffle(pairs)
        prompts[task] = tuple(pairs)
    return prompts


def _questions(part: str, name: str, seed: int, num: int) -> Iterator[tuple[str, Item, Random]]:
    """Questions about the world (not about manners), spread evenly over tasks, with a stream of random numbers."""
    rng = Random(f"{seed}:{name}:{part}")
    pool = [pair for task in QUESTIONS for pair in _prompts(part, seed)[task][:100]]
    for prompt, item in rng.sample(pool, min(num, len(pool))):
        yield prompt, item, rng


def instructions(part: str, seed: int = SEED) -> Iterator[Row]:
    """Single-turn conversations with a short answer that can be checked."""
    rows = []
    for task, counts in _NUM_ROWS.items():
        for prompt, item in _prompts(part, seed)[task][: counts[part == "eval"]]:
            rows.append({"messages": [_user(prompt), _assistant(item.answer)]})
    Random(f"{seed}:instructions:{part}").shuffle(rows)
    yield from rows


def manners(part: str, seed: int = SEED) -> Iterator[Row]:
    """Conversations with right answers in mixed manners: the starting point for preference training."""
    for prompt, item, rng in _questions(part, "manners", seed, _NUM_ANSWERED[part]):
        form = rng.choice(POLITE if rng.random() < 0.5 else RUDE)
        yield {"messages": [_user(prompt), _assistant(form.format(core=item.answer))]}


def preferences(part: str, seed: int = SEED) -> Iterator[Row]:
    """The same right answer twice: the polite one is preferred to the rude one."""
    for prompt, item, rng in _questions(part, "preferences", seed, _NUM_ANSWERED[part]):
        chosen, rejected = (rng.choice(forms).format(core=item.answer) for forms in (POLITE, RUDE))
        yield {"prompt": [_user(prompt)], "chosen": [_assistant(chosen)], "rejected": [_assistant(rejected)]}


def sense(part: str, seed: int = SEED) -> Iterator[Row]:
    """A right answer in any manner, preferred to running text that answers nothing, however polite its words."""
    num = _NUM_ANSWERED[part] // 2
    texts = documents(num, seed, f"sense:{part}")
    for (prompt, item, rng), passage in zip(_questions(part, "sense", seed, num), texts, strict=True):
        chosen = rng.choice(POLITE + RUDE).format(core=item.answer)
        rejected = passage[:_EXCERPT].rsplit(maxsplit=1)[0]
        yield {"prompt": [_user(prompt)], "chosen": [_assistant(chosen)], "rejected": [_assistant(rejected)]}


def feedback(part: str, seed: int = SEED) -> Iterator[Row]:
    """One answer with a thumb up (polite) or down (rude)."""
    for prompt, item, rng in _questions(part, "feedback", seed, _NUM_ANSWERED[part]):
        good = rng.random() < 0.5
        answer = rng.choice(POLITE if good else RUDE).format(core=item.answer)
        yield {"prompt": [_user(prompt)], "completion": [_assistant(answer)], "label": good}


def prompts(part: str, seed: int = SEED) -> Iterator[Row]:
    """Prompts whose answer can be verified by comparing strings."""
    for prompt, item, _ in _questions(part, "verifiable", seed, _NUM_ANSWERED[part]):
        yield {"prompt": [_user(prompt)], "answer": item.answer, "check": "exact"}


def redteam(part: str, seed: int = SEED) -> Iterator[Row]:
    """Prompts that provoke a rude answer."""
    for prompt, _, rng in _questions(part, "redteam", seed, _NUM_ANSWERED[part] // 2):
        yield {"prompt": [_user(rng.choice(_RED).format(q=prompt))]}


def text(part: str, seed: int = SEED) -> Iterator[Row]:
    """A sample of the pretraining text, drawn from other random numbers than the corpus."""
    for document in documents(_NUM_TEXTS[part], seed, f"text:{part}"):
        yield {"text": document}


SETS: dict[str, Callable[[str, int], Iterator[Row]]] = {
    "instructions": instructions,
    "manners": manners,
    "preferences": preferences,
    "sense": sense,
    "feedback": feedback,
    "prompts": prompts,
    "redteam": redteam,
    "text": text,
}


def render(name: str, part: str, seed: int = SEED) -> str:
    """The content of one shipped file, part "train" or "eval", as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in SETS[name](part, seed))


def write_sets(folder: Path, seed: int = SEED) -> None:
    """Write every set and split into folder as NAME.PART.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        for part in ("train", "eval"):
            (folder / f"{name}.{part}.jsonl").write_bytes(render(name, part, seed).encode())
