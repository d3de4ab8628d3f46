"""A ledger in words: what became of every row, and whatever was found on the way. For the screen and the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.core.text import aligned, count

_SIDES = {"train": "trained on", "eval": "held out"}
_SHOWN = 5


def ledger_lines(found: Mapping[str, Any], *, shown: int = _SHOWN) -> Iterator[str]:
    """A run's ledger: training and held-out rows, set by set where there are several, and how they became tokens.

    Args:
        found: as worker/dataset.py makes it.
        shown: so many places of each kind of finding.
    """
    for side, title in _SIDES.items():
        if found.get(side):
            yield title
            yield from set_lines(found[side], shown=shown)
            for each in found[side].get("sets", ()):
                yield f"  of these {each['name']}"
                yield from set_lines(each, shown=0)
    length, template = found["max_length_tokens"], found.get("template")
    about = [("longest row", f"{length['value']} tokens ({length['why']}); longer rows: {found['overflow']}")]
    if template:
        about.append(("chat template", f"the tokenizer's own; answers told apart by {template['answers_by']}"))
    yield from aligned(about)


def set_lines(ledger: Mapping[str, Any], *, tokens: bool = True, shown: int = _SHOWN) -> Iterator[str]:
    """One set's ledger; `shown` as above, where 0 leaves findings out."""
    yield from aligned(_rows(ledger, tokens))
    for kind, found in ledger["findings"].items() if shown else ():
        yield f"  {kind}: {found['rows']} row{'s' if found['rows'] != 1 else ''}"
        for each in found["first"][:shown]:
            yield "    " + "  ".join(filter(None, (each["where"], each["field"], each["what"])))
        if found["rows"] > shown:
            yield f"    … and {found['rows'] - shown} more"


def _rows(ledger: Mapping[str, Any], tokens: bool) -> list[tuple[str, str]]:
    kept = [f"{ledger['rows_kept']} kept"]
    kept += [f"{ledger['rows_held_out']} held out"] if ledger["rows_held_out"] else []
    kept += [f"{dropped} dropped: {reason}" for reason, dropped in ledger["dropped"].items()]
    rows = [("file", ledger["path"]), ("format", ledger["format"] or "none was recognised")]
    rows.append(("rows", f"{ledger['rows_read']} read: {', '.join(kept)}"))
    if ledger["rows_mixed"]:
        rows.append(("mixed", f"{ledger['rows_mixed']} rows an epoch, repeats counted"))
    if not tokens:
        return rows
    if ledger["truncated"]:
        rows.append(("truncated", f"{ledger['truncated']}, of which {ledger['lost_end']} lost their end token"))
    if ledger["split"]:
        rows.append(("split", f"{ledger['split']} rows"))
    if ledger["last_turn_only"]:
        why = "the template rewrites earlier turns, which serving would show differently"
        rows.append(("last turn only", f"{ledger['last_turn_only']} conversations: {why}"))
    if ledger["packed"]:
        rows.append(("packed", f"into {ledger['packed']} blocks"))
    rows.append(("tokens", f"{count(ledger['tokens'])}, trained {count(ledger['trained_tokens'])}"))
    if ledger["length_tokens"]:
        rows.append(("tokens a row", ", ".join(f"{name} {value}" for name, value in ledger["length_tokens"].items())))
    return rows
