"""What differs between two runs as they are resolved: choices, and every setting that decides something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftcli.settings.groups import GROUPS
from ftcli.settings.run_spec import RunSpec

_OF_ITSELF = ("run.dir", "run.name")
"""Of each run its own."""
_MISSING = "not set"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting with the two values that it has; a derived one with its reason."""

    setting: str
    first: Any
    second: Any
    why: str = ""


def differences(first: RunSpec, second: RunSpec) -> list[Difference]:
    """Choices first, then settings, in the order of the groups."""
    found = [
        Difference(setting=group, first=first.choices.get(group), second=second.choices.get(group))
        for group in (*GROUPS, *sorted({*first.choices, *second.choices} - {*GROUPS}))
        if first.choices.get(group) != second.choices.get(group)
    ]
    one, other = dict(_settings(first)), dict(_settings(second))
    reasons = {note.key: note.why for note in (*first.notes, *second.notes)}
    for name in dict.fromkeys((*one, *other)):
        values = one.get(name, _MISSING), other.get(name, _MISSING)
        if values[0] != values[1]:
            found.append(Difference(setting=name, first=values[0], second=values[1], why=reasons.get(name, "")))
    return found


def _settings(spec: RunSpec) -> Iterator[tuple[str, Any]]:
    whole = asdict(spec)
    for group in (*GROUPS, "run"):
        values = whole[group]
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if f"{group}.{key}" not in _OF_ITSELF and not (key == "name" and group in ("method", "peft")):
                yield f"{group}.{key}", value
    yield "seed", whole["seed"]
