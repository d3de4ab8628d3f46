"""Choices that are declared by lying in a folder: a module each, found by listing it, registered nowhere else.

Plugins add modules to some of these folders (core/plugins.py); they are found, named and imported like the others.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any

from ftcli.core.plugins import plugin_loading


@cache
def names_in(package: str) -> tuple[str, ...]:
    """The modules of a package in the order of the alphabet, by their own names. None of them is imported.

    Args:
        package: its dotted name. The package itself is imported, for where it lies.
    """
    plugin_loading.mounted(package)
    return tuple(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)))


def declaration(package: str, name: str, attribute: str) -> Any:
    """What one module of a package binds under a name; the others are not imported.

    Raises:
        KeyError: the package has no such module.
        ConfigError: it is a plugin's, and cannot be imported.
    """
    if name not in names_in(package):
        raise KeyError(name)
    return getattr(plugin_loading.imported(f"{package}.{name}"), attribute)


def declarations(package: str, attribute: str) -> dict[str, Any]:
    """What the modules of a package bind under a name, by module, in the order of the alphabet.

    All of them are imported; those that do not bind the name are helpers of the others.

    Raises:
        ConfigError: one is a plugin's, and cannot be imported.
    """
    return _bound(package, names_in(package), attribute)


def added(package: str, attribute: str) -> dict[str, Any]:
    """What the modules that plugins add to a package bind under a name, by module.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    return _bound(package, sorted(plugin_loading.mounted(package)), attribute)


def _bound(package: str, names: Iterable[str], attribute: str) -> dict[str, Any]:
    modules = {name: plugin_loading.imported(f"{package}.{name}") for name in names}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}
