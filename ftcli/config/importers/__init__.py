"""Foreign tools, one file each: what each of their keys is called here, or why there is none.

A module in this folder that defines `IMPORTER` declares one tool; listing the folder (ftcli/core/declarations.py)
registers it, and nothing else does. The tables are plain data, and nothing of a foreign file is ever run. Hints for
unknown keys (ftcli/config/key_hints.py) and docs/coming-from.md come from them.
"""

from __future__ import annotations

from functools import cache

from ftcli.config.importers.importer import Importer, Key
from ftcli.core.declarations import declarations

__all__ = ["Importer", "Key", "all_importers"]

_ORDER = ("llama_factory", "axolotl", "ms_swift", "unsloth", "trl", "torchtune")


@cache
def all_importers() -> dict[str, Importer]:
    """The tools by module name: those with most users first, and last the names that belong to no tool."""
    found: dict[str, Importer] = declarations(__name__, "IMPORTER")
    names = [*_ORDER, *sorted(found.keys() - {*_ORDER, "general"}), "general"]
    return {name: found[name] for name in names}
