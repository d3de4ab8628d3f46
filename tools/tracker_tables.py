"""The tables of docs/trackers.md, from the declarations of the trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcli.core.text import table
from ftcli.settings.tracker_declaration import TrackerSetting
from ftcli.settings.trackers import SETTINGS, TRACKERS


def trackers() -> str:
    """Every tracker: what it keeps, how it is installed and looked at."""
    rows = [(f"`{name}`", each.summary, f"`{each.remedy}`", f"`{each.shown_by}`") for name, each in TRACKERS.items()]
    return table(("`run.trackers=`", "What it keeps", "Install", "Look at it"), rows)


def tracking() -> str:
    """Every setting of a tracker."""
    rows = [
        (
            f"`{SETTINGS}.{name}.{key}`",
            _values(each),
            f"`{each.default or 'null'}`",
            each.text,
            f"`{each.grant}`" if each.grant else "",
        )
        for name, tracker in TRACKERS.items()
        for key, each in tracker.settings.items()
    ]
    return table(("Setting", "Values", "Default", "Meaning", "A file needs"), rows)


def _values(setting: TrackerSetting) -> str:
    kind = "address" if setting.address else {bool: "true, false", str: "text"}.get(setting.type, setting.type.__name__)
    return ", ".join(f"`{word}`" for word in setting.choices) or kind


REGIONS: Mapping[str, Callable[[], str]] = {"trackers": trackers, "tracking": tracking}
