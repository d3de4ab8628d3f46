"""A ledger on the screen: what became of every row, and whatever was found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftcli.cli import say

_SHOWN = 5
_SIDES = {"train": "trained on", "eval": "held out"}


def print_ledgers(found: Mapping[str, Any], *, findings: bool = True) -> None:
    """A run's ledger: training and held-out rows, set by set where there are several, and how they became tokens."""
    length, template = found["max_length_tokens"], found.get("template")
    about = [("longest row", f"{length['value']} tokens ({length['why']}); longer rows: {found['overflow']}")]
    if template:
        about.append(("chat template", f"the tokenizer's own; answers told apart by {template['answers_by']}"))
    for side, title in _SIDES.items():
        if found.get(side):
            print(title)
            print_set(found[side], findings=findings)
            for each in found[side].get("sets", ()):
                print(f"  of these {each['name']}")
                print_set(each, findings=False)
    say.table(about)


def print_set(ledger: Mapping[str, Any], *, tokens: bool = True, findings: bool = True) -> None:
    """One set's ledger."""
    say.table(_rows(ledger, tokens))
    if findings:
        print_findings(ledger)


def _rows(ledger: Mapping[str, Any], tokens: bool) -> list[tuple[str, str]]:
    kept = [f"{ledger['rows_kept']} kept"]
    kept += [f"{ledger['rows_held_out']} held out"] if ledger["rows_held_out"] else []
    kept += [f"{count} dropped: {reason}" for reason, count in ledger["dropped"].items()]
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
    rows.append(("tokens", f"{say.count(ledger['tokens'])}, trained {say.count(ledger['trained_tokens'])}"))
    if ledger["length_tokens"]:
        rows.append(("tokens a row", ", ".join(f"{name} {value}" for name, value in ledger["length_tokens"].items())))
    return rows


def print_findings(ledger: Mapping[str, Any]) -> None:
    """What is suspicious, by kind, with the first places of each."""
    for kind, found in ledger["findings"].items():
        print(f"  {kind}: {found['rows']} rows")
        for each in found["first"][:_SHOWN]:
            print(f"    {each['where']}  {each['field']} {each['what']}".replace("   ", "  "))
        if found["rows"] > _SHOWN:
            print(f"    … and {found['rows'] - _SHOWN} more (--json lists the first 20)")
