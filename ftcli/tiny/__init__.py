"""The built-in tiny model and its data, for a first run without any download."""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
DATA_DIR = Path(__file__).parent / "data"

_STEMS = {
    "pretrain": "text",
    "text": "text",
    "sft": "instructions",
    "instruct": "instructions",
    "instructions": "instructions",
    "dpo": "preferences",
    "preference": "preferences",
    "preferences": "preferences",
    "sense": "sense",
    "manners": "manners",
    "feedback": "feedback",
    "prompts": "prompts",
    "redteam": "redteam",
}


def set_names() -> tuple[str, ...]:
    """The shipped sets by name."""
    return tuple(dict.fromkeys(_STEMS.values()))


def set_path(task: str, split: str) -> Path:
    """The shipped file for a task ("sft", "dpo", "pretrain", …) and a split, "train" or "eval".

    Raises:
        ValueError: there is no such task or split.
    """
    if task not in _STEMS or split not in ("train", "eval"):
        raise ValueError(f"no built-in set {task!r} {split!r}; tasks are {', '.join(_STEMS)}; splits train, eval")
    return DATA_DIR / f"{_STEMS[task]}.{split}.jsonl"
