"""The transcripts of a synthesis stage: every prompt and reply, item by item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.cli import output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import relative
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.runs import provenance, rundir
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA
from ftcli.synthesis.tasks import shown

_INDENT = "    "


def transcripts(folder: Path, result: Mapping[str, Any] | None, *, as_json: bool) -> None:
    """Print a stage with its transcripts.

    Args:
        result: the stage's result; None if it is not finished.

    Raises:
        ConfigError: no item is finished yet.
    """
    items = [*_items(folder)]
    if not items:
        fix = f"resume with: ftcli train --resume {shell_word(folder.parent)}"
        raise ConfigError(Problem(str(folder), "has no finished item yet", fix))
    if as_json:
        own = {provenance.KEY: provenance.of_folder(folder.parent)} if rundir.is_pipeline(folder.parent) else {}
        output.data({"result": result, "items": items, **own})
        return
    if result is not None:
        output.table(summary(folder, result))
    for number, item in enumerate(items, 1):
        output.text(f"\nitem {number} of {len(items)}")
        output.text("\n".join(_transcript(item)))


def summary(folder: Path, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The result of a finished synthesis stage, as a table."""
    dropped = "".join(f", {count} {reason}" for reason, count in result["dropped"].items())
    backend = result["backend"]
    used = f"{backend['requests']} requests to {backend.get('model') or backend['type']}"
    rows = [("result", f"{result['rows']} rows from {result['items']} items{dropped}"), ("usage", used)]
    if agreement := result.get("agreement"):
        rows.append(("agreement", f"{agreement['share']:.1%} with {agreement['pairs']} labelled pairs"))
    if "first_shown_wins" in result:
        rows.append(("position", f"the answer shown first wins with probability {result['first_shown_wins']:.2f}"))
    rows += [("warning", each["message"]) for each in result.get("warnings", ())]
    return [*rows, ("rows", relative(folder / DATA)), ("transcripts", f"ftcli report {shell_word(relative(folder))}")]


def _items(folder: Path) -> Iterator[dict[str, Any]]:
    file = folder / ITEMS
    for line in foreign_files.read_lines(file) if file.is_file() else ():
        try:
            yield foreign_files.parse_json(line)
        except ValueError:
            return  # a stage that was killed may end in half a line


def _transcript(item: Mapping[str, Any]) -> Iterator[str]:
    """An item's prompt, its replies in order, and the resulting row."""
    row, given = item["row"] or {}, item.get("input", {})
    yield from _part("prompt", given.get("prompt", ""))
    for number, answer in enumerate(given.get("answers", ())):
        yield from _part(f"answer {number}", answer)
    for reply in item["replies"]:
        for name, value in reply.items():
            yield from _part(name, value)
    if not row:
        yield from _part("dropped", item.get("dropped"))
    for name in ("completion", "chosen", "rejected", "margin", *SOFT_LABEL):
        if name in row:
            yield from _part(name, row[name])


def _part(name: str, value: Any) -> Iterator[str]:
    text = value if isinstance(value, str) else shown(value) if isinstance(value, list) else json.dumps(value)
    first, *others = text.split("\n") if text else [""]
    yield f"  {name}: {first}"
    yield from (f"{_INDENT}{line}" for line in others)
