"""Names of what is built in, and paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path

BUILTIN = "builtin:tiny"

BUILTIN_SETS = "builtin:"


def is_builtin(path: object) -> bool:
    """Whether a path means rows that are built in: builtin:tiny, or one of its sets by name."""
    return isinstance(path, str) and path.startswith(BUILTIN_SETS)


def home_expanded(path: str) -> Path:
    """The path with a leading `~` replaced, or as it is where `~name` is nobody's home."""
    return Path(os.path.expanduser(path))
