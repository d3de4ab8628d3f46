"""The trackers, one file each: what `run.trackers` may name, and their settings below `run.tracking`.

A module in this folder that defines `TRACKER` declares the tracker of its name; it is registered nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.core.declarations import declarations
from ftcli.settings.fields.field_row import LISTED, Rows, read
from ftcli.settings.tracker_declaration import Tracker

TRACKERS: Mapping[str, Tracker] = declarations(__name__, "TRACKER")
"""The trackers by name."""
SETTINGS = "run.tracking"
"""The setting that holds the settings of trackers, by their names."""
ROWS: Rows = {
    **{f"{SETTINGS}.{name}": read(inside=LISTED) for name in TRACKERS},
    **{f"{SETTINGS}.{name}.{key}": own.row for name, each in TRACKERS.items() for key, own in each.settings.items()},
}
"""What each setting of a tracker reaches."""


def wanted(trackers: Any) -> list[str]:
    """The names in `run.trackers`, which may be a single one."""
    return [trackers] if isinstance(trackers, str) else [each for each in trackers or () if isinstance(each, str)]
