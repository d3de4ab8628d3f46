"""The account of an imported configuration: every key in its list, what was written out, and what is left to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ftcli.config.conversion import LISTS, Conversion, Entry
from ftcli.config.credentials import masked, masked_values
from ftcli.core.errors import Problem

_LONGEST = 60
"""Characters of a value that are shown."""


def data(found: Conversion) -> dict[str, Any]:
    """As plain data, without passwords and tokens."""
    plain = found.to_data()
    for name in LISTS:
        for entry in plain["account"][name]:
            entry["before"] = masked_values(entry["before"], entry["key"].rpartition(".")[2])
            entry["after"], entry["why"] = masked(entry["after"]), masked(entry["why"])
    return plain


def lines(found: Conversion, problems: Sequence[Problem]) -> Iterator[str]:
    """The account as text."""
    account = found.account
    counts = ", ".join(f"{count} {LISTS[name]}" for name, count in account.counts().items())
    yield f"{found.file} is a configuration of {found.title}: {len(account.entries)} keys, {counts}"
    for name, title in LISTS.items():
        entries = [each for each in account.of(name) if not each.inside]
        if entries:
            yield ""
            yield f"{title}:"
            yield from (f"  {_entry(each)}" for each in entries)
    if account.written_out:
        yield ""
        yield "defaults that differ, written out:"
        yield from (f"  {setting}={value}   {why}" for setting, value, why in account.written_out)
    if account.by_default:
        yield ""
        yield "what the file leaves to a default there, and is not the same here:"
        yield from (f"  {key}: {before} → {after}   ({why})" for key, before, after, why in account.by_default)
    yield from _left(found, problems)


def _left(found: Conversion, problems: Sequence[Problem]) -> Iterator[str]:
    account = found.account
    if account.unsupported:
        yield ""
        yield "not the same training:"
        yield from (f"  {each}" for each in account.unsupported)
    if account.waits_for:
        yield ""
        yield "still to be named, and ??? in the recipe until then:"
        yield from (f"  {each}" for each in account.waits_for)
    yield ""
    if problems:
        yield "ftcli check and ftcli plan still say of the recipe:"
        for each in problems:
            yield f"  {each.where}  {each.what}"
            yield f"    fix: {each.fix}"
    else:
        yield "ftcli check and ftcli plan have nothing against the recipe"
        if account.waits_for:
            yield "ftcli train asks for what is still to be named"


def _entry(entry: Entry) -> str:
    name = entry.key.rpartition(".")[2]
    before = masked_values(entry.before, name)
    text = json.dumps(before, ensure_ascii=False, default=str)
    text = f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
    after = f" → {masked(entry.after)}" if entry.after else ""
    why = f"   ({masked(entry.why)})" if entry.why else ""
    return f"line {entry.line}  {entry.key}: {text}{after}{why}"
