"""Where plugins are: the folders that a command line named, and those that installed packages announce.

Apart from `plugins`, since a list or a help screen needs no more of them, and imports little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

VARIABLE = "FTCLI_PLUGINS"
"""By which workers know the folders that the command line named."""
ENTRY_POINT = "ftcli.plugins"
"""The group of entry points by which an installed package announces its folder."""
CONFIGS = "configs"
"""The folder of a plugin with the group files of its choices."""

Place = tuple[str, str, str]
"""Name, folder, and the name and version of the installed package: "" for a folder of the command line."""

_known: dict[str, tuple[Place, ...]] = {}


def places() -> tuple[Place, ...]:
    """Every plugin of this process: the folders of the command line, then the installed packages.

    Raises:
        ConfigError: a package names a folder that is not there.
    """
    named = os.environ.get(VARIABLE, "")
    if named not in _known:
        given = [(os.path.basename(folder), folder, "") for folder in named.split(os.pathsep) if folder]
        _known[named] = (*given, *_installed())
    return _known[named]


def config_folders() -> list[str]:
    """The folders with group files of plugins."""
    found = [os.path.join(folder, CONFIGS) for _, folder, _ in places()]
    return [folder for folder in found if os.path.isdir(folder)]


def _installed() -> Iterator[Place]:
    """The plugins of installed packages, found by their metadata: none of them is imported.

    Read here, and not by importlib.metadata, whose import alone takes longer than a list.
    """
    seen = set[str]()
    for folder in sys.path:
        try:
            names = [name for name in os.listdir(folder) if name.endswith(".dist-info")]
        except OSError:
            continue
        for name in sorted(names):
            if name not in seen:
                seen.add(name)
                yield from _of_package(name, os.path.join(folder, name, "entry_points.txt"))


def _of_package(name: str, file: str) -> Iterator[Place]:
    try:
        with open(file, encoding="utf-8") as text:
            content = text.read()
    except (OSError, UnicodeDecodeError):
        return
    _, found, after = content.partition(f"[{ENTRY_POINT}]")
    if not found:
        return
    from ftcli.core.errors import ConfigError, Problem

    package = " ".join(name.removesuffix(".dist-info").rsplit("-", 1))
    for line in after.partition("\n[")[0].splitlines():
        plugin, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            continue
        top, *rest = value.partition(":")[0].strip().split(".")
        folder = next((os.path.join(home, *rest) for home in _homes(top)), "")
        if not os.path.isdir(folder):
            what = f"the package {package} announces the plugin {plugin}, and {value} is not there"
            raise ConfigError(Problem(file, what, "install the package again, or uninstall it"))
        yield plugin, folder, package


def _homes(name: str) -> list[str]:
    """The folders of a top-level package, which is not imported; none where it is not installed."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    return [*(spec.submodule_search_locations or ())] if spec is not None else []
