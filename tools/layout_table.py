"""The documentation's table of what two processes learn, by method or adapter and hardware profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.core.text import table


def layouts(found: Mapping[str, Any], measured_with: str) -> str:
    """A row per method and adapter: how far the losses of each profile are from those of one process.

    Args:
        found: benchmarks/results/layouts.json.
        measured_with: the sentence on what it was measured on.
    """
    cells = found["cells"].values()
    profiles = list(dict.fromkeys(cell["layout"] for cell in cells))
    reasons = list(dict.fromkeys(cell["refused"] for cell in cells if "refused" in cell))
    rows = []
    for method, peft in dict.fromkeys((cell["method"], cell["peft"]) for cell in cells):
        own = {cell["layout"]: cell for cell in cells if (cell["method"], cell["peft"]) == (method, peft)}
        rows.append((f"`method={method} peft={peft}`", *(_learned(own.get(name), reasons) for name in profiles)))
    tried = f"{len(cells)} of {found['of']} cells were tried.\n"
    grid = table(("", *(f"`{name}`" for name in profiles)), rows)
    notes = "".join(f"{number}. {reason}\n" for number, reason in enumerate(reasons, 1))
    return "\n".join([measured_with, tried, grid, notes])


def _learned(cell: Mapping[str, Any] | None, reasons: list[str]) -> str:
    if cell is None:
        return ""
    if "refused" in cell:
        return f"no<sup>{reasons.index(cell['refused']) + 1}</sup>"
    return f"{cell['difference']:.0e}" if "difference" in cell else "**failed**"
