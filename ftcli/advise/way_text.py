"""A way as the text of a recipe: what it is for and why, what was planned, the choices, and settings with reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftcli.config.recipe_file import SCHEMA_VERSION
from ftcli.config.recipe_yaml import value_text
from ftcli.config.references import escaped
from ftcli.core.untrusted.printable import one_line

_WIDTH = 110
_ORDER = ("seed", "model", "data", "method", "peft", "quantisation", "hardware", "train", "run", "generator", "judge")

WHY: Mapping[str, str] = {
    "data.eval_share": "held-out rows show when the model starts to memorise",
    "data.format": "the rows are read as prompts; their answers are for the reward",
    "data.columns": "the column that holds the prompt",
    "model.chat_template": "the model's own leaves out a part of the rows",
    "method.rewards": "the rule that tells a right answer, and the column that it compares with",
    "method.num_generations": "answers to each prompt, compared with each other",
    "method.missing_eos_penalty": "for answers that are cut off",
    "method.max_new_tokens": "tokens of an answer at most",
    "method.teacher_model": "the next larger model of the family, with the same vocabulary",
    "method.rounds": "of sampling, judging and training",
    "train.per_device_train_batch_size": "rows of one pass",
    "train.gradient_accumulation_steps": "passes of one step",
    "train.gradient_checkpointing": "trades a fifth of the speed for memory",
    "train.max_steps": "no more steps than these",
}
"""Setting → what it is for; of a stage, the setting without the stage."""


def way_text(head: Sequence[str], choices: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The text of a recipe.

    Args:
        head: paragraphs of the comment at its top; the first says what it is for and how it is run.
        choices: group → choice.
        settings: dotted name → value.
    """
    first, *others = [one_line(text) for text in head]
    lines = [f"# {first}"]
    for text in others:
        lines += textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
    lines += [f"ftcli: {SCHEMA_VERSION}", "defaults:"]
    lines += [f"  - {group}: {value_text(choice)}" for group, choice in choices.items()]
    nested = _nested(settings)
    for key in (*_ORDER, *(name for name in nested if name not in _ORDER)):
        if key in nested:
            lines += _lines(key, nested[key], (), 0)
    return "\n".join(lines) + "\n"


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as a tree; a value that is a mapping of its own is kept as it is."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = name.split(".")
        into = tree
        for part in parents:
            into = into.setdefault(part, _Branch())
        into[last] = value
    return tree


class _Branch(dict[str, Any]):
    """A node of the tree that dotted names make, in difference to a value that is a mapping."""


def _lines(key: str, value: Any, above: tuple[str, ...], depth: int) -> Iterator[str]:
    indent, path = "  " * depth, (*above, key)
    if isinstance(value, _Branch):
        yield f"{indent}{key}:"
        for name, each in value.items():
            yield from _lines(name, each, path, depth + 1)
        return
    own = path[2:] if path[0] == "stages" else path
    line, why = f"{indent}{key}: {value_text(escaped(value))}", WHY.get(".".join(own))
    yield f"{line}{' ' * max(2, 40 - len(line))}# {why}" if why else line
