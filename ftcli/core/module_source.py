"""Where the code of a module stands, found without importing it: its package may need minutes, or run anything."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def module_source(module: str) -> tuple[bool, Path | None]:
    """Whether a module can be found as a worker would find it, and its source; no package of it is executed."""
    named = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    # A worker does not look into its working directory, unless PYTHONPATH names it.
    here = {"", os.getcwd()} - {os.path.abspath(entry) for entry in named}
    path: list[str] | None = [entry for entry in sys.path if entry not in here]
    parts = module.split(".")
    if parts[0] in sys.builtin_module_names:
        return len(parts) == 1, None
    file = None
    for depth in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        if spec is None:
            return False, None
        path, file = list(spec.submodule_search_locations or []), Path(spec.origin) if spec.origin else None
    return True, file if file is not None and file.suffix == ".py" else None


def is_file_of_code(place: str) -> bool:
    """Whether the place of a function is a file, as in `rewards/polite.py:score`, and not a module."""
    return place.endswith(".py")


def function_source(name: str) -> tuple[bool, Path | None, str]:
    """Whether the place of `file.py:function` or `package.module:function` is there, its source, and the function."""
    place, _, attribute = name.rpartition(":")
    if is_file_of_code(place):
        file = Path(place).expanduser()
        return file.is_file(), file, attribute
    return *module_source(place), attribute


def top_level_source(name: str) -> Path | None:
    """The source of an installed top-level package or module, which is not imported; None if it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def package_folder(name: str) -> Path | None:
    """The folder of an installed top-level package, which is not imported; None if it is not installed."""
    source = top_level_source(name)
    return source.parent if source is not None else None
