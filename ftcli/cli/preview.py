"""Rows as the model sees them, in colours at a terminal or as one self-contained HTML page.

Trained tokens are green, others grey, and special tokens are underlined. Without colours (a pipe, NO_COLOR) trained
text is enclosed in ⟦ and ⟧, so that nothing is conveyed by colour alone. Text of another weight than 1 in the loss is
followed by it: ⟦text⟧×0.5.
"""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ftcli.cli import output
from ftcli.core.untrusted.printable import printable
from ftcli.data.ledger_text import template_source

_TRAINED, _READ, _SPECIAL, _OFF = "\x1b[32m", "\x1b[90m", "\x1b[4m", "\x1b[0m"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; padding: .8rem; border-radius: 6px }
pre span { border-radius: 2px } .read { color: #777 } .trained { background: #cdeccd; color: #063 }
.special { outline: 1px solid currentColor; font-weight: 600 } .odd { filter: brightness(.94) } .error { color: #a00 }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd } pre { background: #262626 } .read { color: #999 }
  .trained { background: #1d4023; color: #c7f0c7 } .error { color: #f88 }
}
"""


def print_rows(shown: Sequence[dict[str, Any]]) -> None:
    """Print the rows of the worker's preview."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    *rows, about = shown
    for line in _forms(about):
        output.say(line)
    for row in rows:
        output.say(_headline(row))
        for sequence in row.get("sequences", ()):
            if sequence["name"]:
                output.say(f"-- {sequence['name']}")
            (output.styled if coloured else output.text)("".join(_written(sequence["tokens"], coloured)))
        output.say()
    for line in _about(about):
        output.say(line)


def _headline(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['where']}  unusable: {row['error']}"
    parts = [f"{row['where']}  {row['kind']}, {row['tokens']} tokens, {row['trained']} trained"]
    if row["max_length_tokens"] is not None and row["tokens"] > row["max_length_tokens"]:
        parts.append(f"longer than data.max_length_tokens={row['max_length_tokens']}")
    if row["row_weight"] != 1:
        parts.append(f"weight {row['row_weight']:g} in the loss")
    if row["examples"] > 1:
        parts.append(f"unrolled into {row['examples']} examples, each as it is served at that point")
    return "; ".join([*parts, *row["findings"]])


def _forms(about: dict[str, Any]) -> Iterator[str]:
    """How rows become tokens: through the chat template, or as bare text."""
    forms = list(dict.fromkeys(about.get("forms", ())))
    if forms:
        yield f"rows are read {'; some '.join(forms)}"


def _about(about: dict[str, Any]) -> Iterator[str]:
    yield f"format {about['format']}"
    if about["template"]:
        template = about["template"]
        yield f"chat template: {template_source(template)}; answers found by {template['answers_by']}"
    for kind, first in about["findings"].items():
        yield f"{kind}: {', '.join(each['where'] for each in first)}"


def _written(tokens: Sequence[Sequence[Any]], coloured: bool) -> Iterator[str]:
    for mark, group in groupby(tokens, key=lambda token: token[1]):
        if coloured:
            for text, trained, special in group:
                yield f"{_TRAINED if trained else _READ}{_SPECIAL if special else ''}{printable(text)}{_OFF}"
        else:
            text = "".join(token[0] for token in group)
            yield f"⟦{text}⟧" if mark else text
        yield _weight(mark)


def _weight(mark: bool | float) -> str:
    """What follows text whose tokens weigh something else than 1."""
    return "" if mark in (False, True) else f"×{mark:g}"


def page(shown: Sequence[dict[str, Any]]) -> str:
    """The preview as HTML; hovering over a token shows its position and whether it is trained."""
    *rows, about = shown
    body = []
    for row in rows:
        kind = " class=error" if "error" in row else ""
        body.append(f"<h3{kind}>{html.escape(_headline(row))}</h3>")
        for sequence in row.get("sequences", ()):
            if sequence["name"]:
                body.append(f"<h4>{html.escape(sequence['name'])}</h4>")
            body.append(f"<pre>{''.join(_spans(sequence['tokens']))}</pre>")
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in (*_forms(about), *_about(about)))
    legend = "<span class=trained>trained</span> <span class=read>read only</span> <span class=special>special</span>"
    head = f'<meta charset="utf-8"><title>ftcli data preview</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en">{head}'
        f"<h1>What the model sees</h1><p>{legend}</p><ul>{notes}</ul>{''.join(body)}</html>\n"
    )


def _spans(tokens: Sequence[Sequence[Any]]) -> Iterator[str]:
    for mark, group in groupby(enumerate(tokens), key=lambda placed: placed[1][1]):
        kind = "trained" if mark else "read"
        for place, (text, _, special) in group:
            if not text:
                continue
            names = [kind, *(["special"] if special else []), *(["odd"] if place % 2 else [])]
            title = f"token {place}, {'trained' if mark else 'read only'}"
            yield f'<span class="{" ".join(names)}" title="{title}">{html.escape(text)}</span>'
        if weight := _weight(mark):
            yield f"<sub>{weight}</sub>"
