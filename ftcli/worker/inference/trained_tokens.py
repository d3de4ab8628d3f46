"""Rows as tokens with which of them are trained: for a preview, and for the few that a run keeps for its report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any

from ftcli.worker.tokenise.encoder import IGNORED

MOST_ROWS = 4
"""Rows that a run keeps."""
MOST_TOKENS = 800
"""Of a sequence that a run keeps: half of them from its beginning, half from its end."""

Marks = Sequence[bool | float]
"""For each token whether it is trained, or the weight of its loss where that is not 1."""


def kept_rows(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> Iterator[dict[str, Any]]:
    """The first rows (or packed blocks) as a run trains on them, after truncation and packing.

    Yields:
        {"sequences": [{"name", "tokens": [[text, trained, special], …], "left_out"}], "tokens", "trained"}, where
        `left_out` counts the tokens in the middle that are not kept.
    """
    special = frozenset(tokenizer.added_tokens_decoder)
    for row in islice(rows, MOST_ROWS):
        whole = sequences(row)
        yield {
            "sequences": [_kept(tokenizer, each, special) for each in whole],
            "tokens": max(len(ids) for _, ids, _ in whole),
            "trained": sum(sum(map(bool, marks)) for _, _, marks in whole),
        }


def _kept(tokenizer: Any, sequence: tuple[str, list[int], Marks], special: frozenset[int]) -> dict[str, Any]:
    name, ids, marks = sequence
    left_out, half = max(0, len(ids) - MOST_TOKENS), MOST_TOKENS // 2
    if not left_out:
        return {"name": name, "tokens": pieces(tokenizer, ids, marks, special), "left_out": 0}
    begin = pieces(tokenizer, ids[:half], marks[:half], special)
    return {
        "name": name,
        "tokens": begin + pieces(tokenizer, ids[-half:], marks[-half:], special),
        "left_out": left_out,
    }


def sequences(columns: Mapping[str, Any], name: str = "") -> list[tuple[str, list[int], Marks]]:
    """The sequences of a row's columns, each with a name, which is empty where there is one, and its marks."""
    if "input_ids" in columns:
        return [(name, list(columns["input_ids"]), _marks(columns))]
    prompt = list(columns["prompt_ids"])
    if "row" in columns:  # of a method that trains on its own answers
        return [(name, prompt, [False] * len(prompt))]
    answers = {side: list(columns.get(f"{side}_ids") or ()) for side in ("chosen", "rejected")}
    return [
        (side, prompt + answer, [False] * len(prompt) + [True] * len(answer))
        for side, answer in answers.items()
        if answer
    ]


def _marks(columns: Mapping[str, Any]) -> list[bool | float]:
    weights = columns.get("weights") or repeat(1)
    return [
        label != IGNORED and (True if weight == 1 else weight)
        for label, weight in zip(columns["labels"], weights, strict=False)
    ]


def pieces(tokenizer: Any, ids: list[int], trained: Marks, special: frozenset[int]) -> list[list[Any]]:
    """Each token as [text, trained, special]; a character that spans several tokens is given to the first."""
    found: list[list[Any]] = []
    start = 0
    while start < len(ids):
        end = start + 1
        text = tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        while text.endswith("\ufffd") and end < len(ids) and end - start < 4:
            end += 1
            text = tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found.append([text, trained[start], ids[start] in special])
        found += [["", trained[at], False] for at in range(start + 1, end)]
        start = end
    return found
