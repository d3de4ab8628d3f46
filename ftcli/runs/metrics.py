"""The lines of metrics.jsonl, for both halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files

MAX_BYTES = 1 << 30
"""Of metrics.jsonl: a million steps, each written down, take about half of it."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to the first that is none: a crash cut it short, or a stranger wrote it.

    Raises:
        ValueError: it is no regular file, not UTF-8, or larger than MAX_BYTES.
    """
    found: list[dict[str, Any]] = []
    for text in foreign_files.read_text(path, MAX_BYTES).splitlines() if path.is_file() else []:
        try:
            line = foreign_files.parse_json(text)
        except ValueError:
            break
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            break
        found.append(line)
    return found
