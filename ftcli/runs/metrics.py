"""The lines of metrics.jsonl, for both halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without a last line that a crash cut short."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(foreign_files.parse_json(text))
        except ValueError:
            break
    return found
