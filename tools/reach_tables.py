"""Tables of what settings reach, from the table of fields: docs/security.md and docs/configuration.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcli.cli.arguments import GRANTS
from ftcli.core.text import table
from ftcli.settings.fields import field_table
from ftcli.settings.fields.field_row import FieldRow
from ftcli.settings.ownership import ALLOW_PATH, ENDPOINT
from tools.reader_rules import READERS

_LEAVES = ("writes", "sends", "runs")


def _rows() -> Mapping[str, FieldRow]:
    return {**field_table.FIELDS, **field_table.ENTRIES}


def grants() -> str:
    """The flags that grant what a file alone may not do."""
    granted: dict[str, list[str]] = {flag: [] for flag in GRANTS}
    for name, row in _rows().items():
        if row.grant:
            granted[row.grant].append(f"`{name}`")
    granted[ALLOW_PATH].append("paths outside a recipe's folder")
    granted[ENDPOINT].append("`judge` and `generator` of a pipeline, where they are an endpoint")
    rows = [(f"`{flag}`", GRANTS[flag], ", ".join(sorted(names))) for flag, names in granted.items()]
    return table(("Flag", "What it grants", "Needed for"), rows)


def reach() -> str:
    """Every setting that writes, sends or runs something, and what holds it."""
    rows = []
    for name, row in sorted(_rows().items()):
        does = [each for each in row.reaches if each in _LEAVES]
        if not does:
            continue
        if row.refused:
            held = f"refused: {row.refused}"
        elif row.owner:
            held = f"set by {row.owner}"
        elif row.grant:
            free = f", but for {', '.join(f'`{word}`' for word in row.harmless)}" if row.harmless else ""
            held = f"`{row.grant}`{free}"
        else:
            held = row.guarded
        rows.append((f"`{name}`", ", ".join(does), held))
    return table(("Setting", "It", "A file needs"), rows)


def readers() -> str:
    """Who opens the files of a folder that may be a stranger's."""
    rows = [
        (f"`{what.strip(chr(34))}`", f"`{reader.replace('.', '/')}`", why)
        for what, places in READERS.items()
        for reader, why in places.items()
    ]
    return table(("What is read", "By", "Why that is safe"), rows)


REGIONS: Mapping[str, Callable[[], str]] = {"grants": grants, "reach": reach, "readers": readers}
