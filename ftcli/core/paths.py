"""Names of the built-in model and data sets, and paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path

BUILTIN = "builtin:tiny"

BUILTIN_SETS = "builtin:"

UNNAMED = "???"
"""Stands for a model or rows that a recipe leaves to its user: checks and plans take it, and nothing trains on it."""


def is_builtin(path: object) -> bool:
    """Whether a path names built-in data: builtin:tiny, or one of its sets."""
    return isinstance(path, str) and path.startswith(BUILTIN_SETS)


def home_expanded(path: str) -> Path:
    """The path with a leading `~` expanded; unchanged where `~name` is not a user."""
    return Path(os.path.expanduser(path))


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept that can be made again: XDG_CACHE_HOME/ftcli/NAME, or ~/.cache/ftcli/NAME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ftcli" / name


def is_template_path(value: str) -> bool:
    """Whether `model.chat_template` is the path of a file, and not a name."""
    return "/" in value or value.endswith(".jinja") or value.startswith("~")


def relative(path: Path) -> str:
    """The path relative to the current directory if it is inside it, else unchanged."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
