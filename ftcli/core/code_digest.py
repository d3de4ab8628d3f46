"""A digest of our own source, for the keys of caches: what an older version computed is never taken for today's."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from ftcli.core.plugins import plugin_loading

PACKAGE = Path(__file__).resolve().parents[1]


def code_files(*parts: str, package: Path = PACKAGE) -> list[Path]:
    """The modules that are meant by their own path, or by that of a folder above them, inside the package."""
    places = [package / part for part in parts]
    return [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


@cache
def code_digest(*parts: str, package: Path = PACKAGE) -> str:
    """The digest of modules and whole folders, named by their path inside the package.

    Raises:
        FileNotFoundError: one is not there, so a module that moved never drops out of a key unseen.
    """
    digest = hashlib.sha256()
    for file in code_files(*parts, package=package):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes() + b"\0")
    for plugin in plugin_loading.all_plugins():  # whose formats make rows too
        digest.update(plugin.digest().encode())
    return digest.hexdigest()
