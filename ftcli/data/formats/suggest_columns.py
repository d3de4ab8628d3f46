"""The `data.columns` that would make a row fit, for rows whose columns match no format.

A guess from the columns at hand: their names (Dolly's `response`, a survey's `Customer Question`), then, where exactly
two columns of text are left, their order and length: the question stands first, or is the shorter one. It is offered as
a command to be typed, never applied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from ftcli.data.formats.columns import Format

_MEANINGS: Mapping[str, tuple[str, ...]] = {
    "instruction": ("instruction", "instructions", "task", "command", "directive"),
    "input": ("input", "context", "passage", "document", "background", "source"),
    "output": ("output", "response", "answer", "completion", "reply", "result", "target", "solution", "summary"),
    "question": ("question", "query", "ask", "problem", "request", "utterance", "customer", "user", "human"),
    "answer": ("answer", "response", "reply", "agent", "assistant", "bot", "completion", "output", "solution", "gpt"),
    "prompt": ("prompt", "question", "query", "input", "instruction", "source", "request", "problem", "user"),
    "completion": ("completion", "response", "answer", "output", "reply", "target", "continuation", "summary"),
    "chosen": ("chosen", "preferred", "good", "better", "best", "positive", "accepted", "winner", "win"),
    "rejected": ("rejected", "dispreferred", "bad", "worse", "worst", "negative", "refused", "loser", "lose"),
    "messages": ("messages", "conversation", "conversations", "dialog", "dialogue", "chat", "turns", "history"),
    "text": ("text", "content", "body", "document", "article", "passage", "sentence", "code"),
    "label": ("label", "rating", "feedback", "good", "thumbs", "is_good", "liked"),
    "system": ("system", "system_prompt", "persona"),
}
"""What people call each of our columns, the likeliest first."""

_SHAPES: tuple[tuple[str, ...], ...] = (
    ("prompt", "chosen", "rejected"),
    ("prompt", "completion", "label"),
    ("messages",),
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("text",),
)
"""Our columns that together make a format, the most specific first."""

_NEAR = 0.75
_NO_TEXT = "id|idx|index|uuid|url|date|time|timestamp|source|category|lang|language|split"
_ID = re.compile(rf"(^|[_\W])({_NO_TEXT})([_\W]|$)", re.IGNORECASE)


def suggested_columns(row: Mapping[str, Any], formats: Sequence[Format]) -> dict[str, str] | None:
    """Our column names mapped to the row's, such that a format fits; None if no guess does."""
    texts = [name for name, value in row.items() if isinstance(value, str) and not _ID.search(name)]
    for shape in _SHAPES:
        if shape == ("text",) and len(texts) > 1:
            continue  # one of several texts is not the document
        found = _by_name(shape, row)
        if found is not None and _fits(found, row, formats):
            return {ours: theirs for ours, theirs in found.items() if ours != theirs}
    if len(texts) == 2:
        first, second = texts
        likely = [{"question": first, "answer": second}, {"question": second, "answer": first}]
        # An answer that is named as one, or is much longer, stands first in a few sets.
        backwards = _likeness("answer", first) > _likeness("answer", second) and _likeness("answer", first) >= _NEAR
        for each in reversed(likely) if backwards else likely:
            if _fits(each, row, formats):
                return each
    if len(texts) == 1 and len(row) <= 3 and _fits({"text": texts[0]}, row, formats):
        return {"text": texts[0]}
    return None


def mapping_override(columns: Mapping[str, str], setting: str) -> str:
    """The override of a mapping, with what its grammar needs quoted."""
    pairs = ", ".join(f"{ours}: {_quoted(theirs)}" for ours, theirs in columns.items())
    return f"{setting}={{{pairs}}}"


def typed(override: str) -> str:
    """An override as a shell takes it."""
    return "'" + override.replace("'", "'\\''") + "'"


def _quoted(name: str) -> str:
    """A column's name as the grammar of overrides takes it."""
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in ("null", "true", "false", "inf", "nan"):
        return name
    mark = "'" if '"' in name else '"'
    return mark + name.replace(mark, f"\\{mark}") + mark


def _by_name(shape: tuple[str, ...], row: Mapping[str, Any]) -> dict[str, str] | None:
    """The row's column for each of ours, by their names; None if one has no likely column."""
    found: dict[str, str] = {}
    for ours in shape:
        rest = [name for name in row if name not in found.values()]
        best = max(rest, key=lambda name: _likeness(ours, name), default=None)
        if best is None or _likeness(ours, best) < _NEAR:
            return None
        found[ours] = best
    return found


def _likeness(ours: str, theirs: str) -> float:
    """How much a column's name means ours, 0 to 1: the best of its words and of the whole."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", theirs)
    words = [each for each in re.split(r"[\W_\d]+", plain.lower()) if each]
    best = 0.0
    for rank, meaning in enumerate(_MEANINGS[ours]):
        score = max((SequenceMatcher(None, meaning, each).ratio() for each in (*words, " ".join(words))), default=0.0)
        last = bool(words) and words[-1] == meaning  # "Agent Reply" is a reply
        best = max(best, (score if score >= 0.85 else score * 0.6) - rank * 0.005 + (0.05 if last else 0))
    return best


def _fits(columns: Mapping[str, str], row: Mapping[str, Any], formats: Sequence[Format]) -> bool:
    """Whether a format recognises the row under this mapping."""
    return bool(fitting_formats(columns, row, formats))


def fitting_formats(columns: Mapping[str, str], row: Mapping[str, Any], formats: Sequence[Format]) -> list[Format]:
    """The formats that recognise the row under a mapping which replaces none of its columns."""
    if any(ours != theirs and ours in row and ours not in columns.values() for ours, theirs in columns.items()):
        return []
    taken = {*columns, *columns.values()}
    mapped = {name: value for name, value in row.items() if name not in taken}
    mapped.update((ours, row[theirs]) for ours, theirs in columns.items())
    return [fmt for fmt in formats if fmt.recognise(mapped)]
