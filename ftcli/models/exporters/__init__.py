"""What a trained model can be written as for somebody else's program, one file a format.

A module in this folder that defines `EXPORTER` declares the format that bears its name (ftcli/models/export/exporter.py
says what that is). Listing the folder (ftcli/core/declarations.py) registers it, and nothing else does.
"""

from __future__ import annotations

from ftcli.core.declarations import declarations
from ftcli.models.export.exporter import Exporter


def exporters() -> dict[str, Exporter]:
    """Every format, the plain folder first."""
    found = declarations(__name__, "EXPORTER")
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "folder", name))}
