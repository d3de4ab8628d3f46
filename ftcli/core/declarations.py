"""Choices that are declared by lying in a folder: a module each, found by listing it, registered nowhere else."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any


@cache
def names_in(package: str) -> tuple[str, ...]:
    """The modules of a package in the order of the alphabet, by their own names. None of them is imported.

    Args:
        package: its dotted name. The package itself is imported, for where it lies.
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)))


def declaration(package: str, name: str, attribute: str) -> Any:
    """What one module of a package binds under a name; the others are not imported.

    Raises:
        KeyError: the package has no such module.
    """
    if name not in names_in(package):
        raise KeyError(name)
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


def declarations(package: str, attribute: str) -> dict[str, Any]:
    """What the modules of a package bind under a name, by module, in the order of the alphabet.

    All of them are imported; those that do not bind the name are helpers of the others.
    """
    modules = {name: importlib.import_module(f"{package}.{name}") for name in names_in(package)}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}
