"""The table of docs/coming-from.md on what became of real configurations, from benchmarks/results/imports.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcli.config.conversion import LISTS
from ftcli.core.text import table
from tools.result_tables import result

_COMMAND = "python -m benchmarks.imports NAME=FOLDER … --save"


def imports() -> str:
    """Files and keys of each tool's own examples, by what became of them."""
    rows = []
    for name, found in result("imports", _COMMAND).items():
        counts = {each: int(found["counts"].get(each, 0)) for each in (*LISTS, *_COUNTED)}
        keys = sum(counts[each] for each in LISTS)
        if not keys:
            continue
        shares = [f"{counts[each] / keys:.1%}" for each in LISTS]
        passed = f"{counts['passed']} of {counts['complete']}"
        rows.append((name, f"{counts['imported']} of {counts['files']}", f"{keys:,}", *shares, passed))
    titles = [title.partition(",")[0].capitalize() for title in LISTS.values()]
    head = ("Examples of", "Trainings among the files", "Keys", *titles, _PASS)
    return table(head, rows)


def not_carried() -> str:
    """The keys that are left out most often, by tool."""
    found = result("imports", _COMMAND)
    rows = [
        (name, ", ".join(f"{key} {count}" for key, count in each["not_carried"].items()))
        for name, each in found.items()
        if each["not_carried"]
    ]
    return table(("Examples of", "Keys that are not carried over, most first"), rows)


_COUNTED = ("files", "imported", "complete", "passed")
_PASS = "Whole trainings that pass `check` and `plan`"

REGIONS: Mapping[str, Callable[[], str]] = {"imports": imports, "imports-left-out": not_carried}
