"""The tables of docs/coming-from.md on what became of real configurations, and on the proof that tokens are the same.

From benchmarks/results/imports.json and proofs.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftcli.config.conversion import LISTS
from ftcli.config.importers import all_importers
from ftcli.core.text import table
from ftcli.proofs.token_difference import KINDS
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


def proofs() -> str:
    """Rows of the demo sets whose tokens are the same in another tool and here, and why the others differ."""
    found = result("proofs", _PROVE)
    titles = {name: each.title for name, each in all_importers().items()}
    rows = []
    for each in found["cases"]:
        shape = f", as {each['as']}" if each["as"] else ""
        name = each["configuration"].partition("/")[2] or each["configuration"]
        about = (titles[each["tool"]], f"`{name}`", f"`{each['set']}`{shape}")
        if "error" in each:
            rows.append((*about, "", "", f"not compared: {each['error'].partition(chr(10))[0]}"))
            continue
        differ = ", ".join(f"`{kind}` {count}" for kind, count in each["kinds"].items())
        neither = f" ({each['left_out_by_both']} left out by both)" if each.get("left_out_by_both") else ""
        rows.append((*about, f"{each['rows']}", f"{each['alike']}{neither}", differ))
    return table(("Tool", "Its example", "Rows of", "Rows", "Equal", "Different, by kind"), rows)


def proof_kinds() -> str:
    """What each kind of difference is."""
    return table(("Kind", "What differs"), [(f"`{kind}`", what) for kind, what in KINDS.items()])


_PROVE = "python -m benchmarks.proofs --peers FOLDER --demo FOLDER --model FOLDER --save"
_COUNTED = ("files", "imported", "complete", "passed")
_PASS = "Whole trainings that pass `check` and `plan`"

REGIONS: Mapping[str, Callable[[], str]] = {
    "imports": imports,
    "imports-left-out": not_carried,
    "proofs": proofs,
    "proof-kinds": proof_kinds,
}
