"""A draft as the text of a recipe: choices first, then the groups, each line with what is to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.config.conversion.draft import Draft
from ftcli.config.recipe_yaml import comment, value_text
from ftcli.config.references import escaped

_ORDER = ("model", "data", "method", "peft", "quantisation", "train", "hardware", "run", "seed")
_FIRST = (
    "name_or_path revision dtype path mix split eval_path eval_share max_length_tokens overflow packing r lora_alpha "
    "lora_dropout target_modules learning_rate lr_scheduler_type warmup_steps num_train_epochs max_steps "
    "per_device_train_batch_size gradient_accumulation_steps optim weight_decay max_grad_norm"
)
"""Settings that a reader looks for first, in the order of a group."""
_CHOICES = ("method", "peft", "quantisation", "hardware")
_WIDTH = 110


def text(draft: Draft, title: str) -> str:
    """The recipe, checked by nobody yet."""
    head = [f"{comment(f'Brought from {title}: {draft.file.path.name}.')}   ftcli train recipe=FILE"]
    head += [comment(f"Not the same training: {each}.") for each in draft.unsupported]
    head += [comment(f"To be named: {each}.") for each in draft.waits_for]
    chosen = [f"  - {group}: {draft.choices[group]}" for group in _CHOICES if group in draft.choices]
    return "\n".join([*head, "ftcli: 1", "defaults:", *chosen, *_groups(draft)]) + "\n"


def _groups(draft: Draft) -> Iterator[str]:
    for group in _ORDER:
        if group in draft.settings:
            yield f"{group}: {value_text(escaped(draft.settings[group]))}"
            continue
        own = {key.partition(".")[2]: key for key in draft.settings if key.startswith(f"{group}.")}
        if not own:
            continue
        yield f"{group}:"
        for name, key in sorted(own.items(), key=lambda each: _place(each[0])):
            yield from _setting(name, draft.settings[key], draft.comments.get(key, ""))


def _place(name: str) -> int:
    order = _FIRST.split()
    return order.index(name) if name in order else len(order)


def _setting(name: str, value: Any, remark: str) -> Iterator[str]:
    value, note = escaped(value), f"   {comment(remark)}" if remark else ""
    if isinstance(value, Mapping) and value and len(value_text(value)) > _WIDTH // 2:
        yield f"  {name}:{note}"
        for key, item in value.items():
            yield f"    {value_text(key)}: {value_text(item)}"
    else:
        yield f"  {name}: {value_text(value)}{note}"
