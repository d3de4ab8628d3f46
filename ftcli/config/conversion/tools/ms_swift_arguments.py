"""The args.json of ms-swift: every argument that it has, those that nobody set, and notes of the process among them."""

from __future__ import annotations

import ast
from dataclasses import replace

from ftcli.config.conversion.draft import Draft, Occurrence
from ftcli.config.conversion.known import known_defaults
from ftcli.settings import library_fields

_NOTES = (
    *("training_args", "model_info", "model_meta", "model_suffix", "model_dir", "template_meta", "hub", "rank"),
    *("local_rank", "global_world_size", "local_world_size", "swift_version", "logging_dir", "use_cpu"),
    *("_val_dataset_exists", "_teacher_use_disable_adapter", "sortish_sampler", "predict_with_generate"),
)
"""What stands there of the process and of other programs, and is no argument of a training."""
_EMPTY: tuple[object, ...] = ("", [], {})


def is_dump(draft: Draft) -> bool:
    """Whether a file holds all arguments: ms-swift alone writes its own release among them."""
    return "swift_version" in draft.file.data or "training_args" in draft.file.data


def set_aside(draft: Draft) -> None:
    """Decide of what is empty, or no argument, before anything else reads it; note what nobody set."""
    for key in draft.keys:
        if len(key.path) > 1:
            continue
        if key.name in _NOTES:
            _aside(draft, key, "no argument: what ms-swift notes of its process")
        elif key.value in _EMPTY and not isinstance(key.value, bool):
            _aside(draft, key, "nothing is set there, and nothing here")
    draft.untouched |= {key.path for key in draft.keys if _is_default(draft, key.name, key.value)}
    draft.keys = tuple(replace(key, value=None) if key.path in draft.entries else key for key in draft.keys)


def _aside(draft: Draft, key: Occurrence, why: str) -> None:
    draft.mapped(key, why=why)
    draft.file.data[key.name] = None


def _is_default(draft: Draft, key: str, value: object) -> bool:
    """Whether an argument is as it is where nobody sets it."""
    known = known_defaults(draft.tool)
    if key in known:
        return bool(known[key] == value) and isinstance(value, bool) == isinstance(known[key], bool)
    field = library_fields.fields_of(library_fields.TRAINING_ARGUMENTS).get(key)
    try:
        return field is not None and bool(ast.literal_eval(field.default) == value)
    except (SyntaxError, ValueError):
        return False
