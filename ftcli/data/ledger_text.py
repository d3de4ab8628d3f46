"""The row ledger as text, for the screen and the log: what became of every row, and the failed quality checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftcli.core.text import aligned, count

_SIDES = {"train": "trained on", "eval": "held out"}
_SHOWN = 5


def ledger_lines(ledger: Mapping[str, Any], *, shown: int = _SHOWN) -> Iterator[str]:
    """A run's ledger: training and held-out rows, by set where there are several, and their tokenisation.

    Args:
        ledger: the content of ledger.json.
        shown: places to list per quality check.
    """
    for side, title in _SIDES.items():
        if ledger.get(side):
            yield title
            yield from set_lines(ledger[side], shown=shown)
            for each in ledger[side].get("sets", ()):
                yield f"  of these {each['name']}"
                yield from set_lines(each, shown=0)
    length, template = ledger["max_length_tokens"], ledger.get("template")
    about = [("longest row", f"{length['value']} tokens ({length['why']}); longer rows: {ledger['overflow']}")]
    if template:
        about.append(("chat template", f"{template_source(template)}; answer spans from {template['answers_by']}"))
    yield from aligned(about)


def template_source(template: Mapping[str, str]) -> str:
    """Whose chat template was used, with the values of its variables."""
    source = "the tokenizer's own" if template["from"] == "the tokenizer" else template["from"]
    return f"{source} with {template['variables']}" if "variables" in template else source


def unrolled_text(rows: int, examples: int, tokens: int) -> str:
    """How many examples unrolled conversations make, and how many more tokens for that."""
    more = f"{count(tokens)} more tokens, as each repeats what comes before it"
    return f"{rows} conversation{'s' if rows > 1 else ''} into {examples} examples: {more}"


def set_lines(ledger: Mapping[str, Any], *, tokens: bool = True, shown: int = _SHOWN) -> Iterator[str]:
    """One set's ledger; `shown` as above, where 0 omits the quality checks."""
    yield from aligned(_rows(ledger, tokens))
    for name, issues in ledger["findings"].items() if shown else ():
        yield f"  {name}: {issues['rows']} row{'s' if issues['rows'] != 1 else ''}"
        for each in issues["first"][:shown]:
            yield "    " + "  ".join(filter(None, (each["where"], each["field"], each["what"])))
        if issues["rows"] > shown:
            yield f"    … and {issues['rows'] - shown} more"


def _rows(ledger: Mapping[str, Any], tokens: bool) -> list[tuple[str, str]]:
    kept = [f"{ledger['rows_kept']} kept"]
    kept += [f"{ledger['rows_held_out']} held out"] if ledger["rows_held_out"] else []
    kept += [f"{dropped} dropped: {reason}" for reason, dropped in ledger["dropped"].items()]
    rows = [("file", ledger["path"]), ("format", ledger["format"] or "not recognised")]
    rows += [("text", f"{about}, {number} rows") for about, number in ledger.get("text_forms", {}).items()]
    rows.append(("rows", f"{ledger['rows_read']} read: {', '.join(kept)}"))
    if ledger["rows_mixed"]:
        rows.append(("mixed", f"{ledger['rows_mixed']} rows per epoch, repeats counted"))
    if ledger["unread"]:
        rows.append(("not read", ", ".join(f"{name} (in {number} rows)" for name, number in ledger["unread"].items())))
    if not tokens:
        return rows
    if ledger["truncated"]:
        rows.append(("truncated", f"{ledger['truncated']}, of which {ledger['lost_end']} lost their end token"))
    if ledger["split"]:
        rows.append(("split", f"{ledger['split']} rows"))
    if ledger.get("unrolled"):
        numbers = (ledger[name] for name in ("unrolled", "unrolled_examples", "repeated_tokens"))
        rows.append(("unrolled", unrolled_text(*numbers)))
    if ledger.get("last_turn_only"):  # runs before 0.2
        why = "the template rewrites earlier turns, which serving would show differently"
        rows.append(("last turn only", f"{ledger['last_turn_only']} conversations: {why}"))
    if ledger["packed"]:
        rows.append(("packed", f"into {ledger['packed']} blocks"))
    rows.append(("tokens", f"{count(ledger['tokens'])}, trained {count(ledger['trained_tokens'])}"))
    if ledger["length_tokens"]:
        rows.append(("tokens per row", ", ".join(f"{name} {value}" for name, value in ledger["length_tokens"].items())))
    return rows
