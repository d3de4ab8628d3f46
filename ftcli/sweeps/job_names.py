"""Names of a sweep's jobs, by what varied: `learning_rate-0.0001_r-8`. A name is a folder, and a word in any shell."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

LONGEST = 100
"""Characters of a name: two of them, and more, stand in the name of one file."""
ALONE = "job"
"""The name of a job where nothing varied."""


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each setting by its last words, as many as tell it from the others."""
    found = {}
    for key in keys:
        words = key.split(".")
        others = [other.split(".") for other in keys if other != key]
        size = next((n for n in range(1, len(words)) if all(other[-n:] != words[-n:] for other in others)), len(words))
        found[key] = ".".join(words[-size:])
    return found


def job_name(varied: Mapping[str, str], taken: Collection[str]) -> str:
    """The name of a job.

    Args:
        varied: setting → its value, as typed.
        taken: the names of the other jobs.
    """
    short = short_keys([*varied])
    parts = [f"{short[key]}-{_shown(value)}" for key, value in varied.items()]
    name = re.sub(r"[^\w.+-]+", "-", "_".join(parts)).strip("-.")[:LONGEST] or ALONE
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _shown(value: str) -> str:
    """A value, a long number by the digits that tell it from its like."""
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value.lower() else value
    except ValueError:
        return value
