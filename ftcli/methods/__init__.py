"""The training methods: one file each, declared, never branched on.

A module in this folder that defines `METHOD` is a method; nothing else registers it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ftcli.methods.base import Method

__all__ = ["Method", "all_methods", "get_method"]


def get_method(name: str) -> Method:
    """The declaration of method `name` (a name of `configs/method`)."""
    method: Method = importlib.import_module(f"ftcli.methods.{name}").METHOD
    return method


@cache
def all_methods() -> dict[str, Method]:
    """Every declared method by name, in the order of the alphabet."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")
    return {name: get_method(name) for name in names}
