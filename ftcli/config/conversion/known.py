"""What is known of the tools beyond their tables: the names of all their keys, and of the data sets they ship."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ftcli.core.strict_yaml import load

_HERE = Path(__file__).parent


@cache
def known_keys(tool: str) -> frozenset[str]:
    """All keys of a tool, from its source; empty where only its table is known."""
    text = load(_HERE / "known_keys.yaml", "known_keys.yaml").data.get(tool, "")
    return frozenset(text.split())


@cache
def known_defaults(tool: str) -> Mapping[str, Any]:
    """What arguments of a tool are that nobody sets."""
    found: Mapping[str, Any] = load(_HERE / "known_defaults.yaml", "known_defaults.yaml").data.get(tool, {})
    return found


@cache
def known_sets(tool: str) -> Mapping[str, Any]:
    """The data sets that a tool knows by a name of its own, and where they are."""
    found: Mapping[str, Any] = load(_HERE / "known_sets.yaml", "known_sets.yaml").data.get(tool, {})
    return found
