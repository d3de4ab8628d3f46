"""Which rows a batch was made of, found again by their tokens. Slow, and only done for a batch that broke a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ftcli.worker.tokenise.token_sets import TokenSet
from ftcli.worker.tokenise.truncation import apart

MOST_NAMED = 8
"""Rows that a message names; it counts the others."""
_CHUNK = 1000
_SHOWN = 60
"""Characters of a row that is known by its text alone."""

Find = Callable[[Sequence[Any], Any], str]
"""Batches, and the tokenizer → the rows in them, for a message."""


def finder(sets: Sequence[TokenSet]) -> Find:
    """What names rows by file and line, where they are of these sets, and else by how they begin."""

    def named(batches: Sequence[Any], tokenizer: Any) -> str:
        sequences = [ids for batch in batches for ids in sequences_in(batch)]
        places = list(_places(sets, sequences))
        if not places:
            texts = [tokenizer.decode(ids) for ids in sequences]
            places = list(dict.fromkeys(repr(text[:_SHOWN]) for text in texts))
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        return ", ".join(_in_short(places[:MOST_NAMED])) + more if places else "rows that cannot be told apart"

    return named


def _in_short(places: Sequence[str]) -> Iterator[str]:
    """The places, each file named once: rows.jsonl:3, 8, 21."""
    file = ""
    for place in places:
        before, _, row = place.rpartition(":")
        yield row if before and before == file else place
        file = before


def sequences_in(batch: Any) -> list[list[int]]:
    """The token sequences of a batch, without padding: of its tensors of ids, or of rows that are not yet joined."""
    if isinstance(batch, list):
        return [key for row in batch for key in _keys(row)]
    found = []
    for name, ids in batch.items():
        if not name.endswith("ids") or name.startswith("position") or not _is_ids(ids):
            continue
        mask = batch.get(name.removesuffix("ids") + "mask", batch.get("attention_mask"))
        whole = mask is None or mask.shape != ids.shape
        rows = ids.tolist() if whole else [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
        found += [row for row in rows if row]
    return found


def _is_ids(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2 and not value.is_floating_point()


def _places(sets: Sequence[TokenSet], sequences: Sequence[Sequence[int]]) -> Iterator[str]:
    """The places of all rows that are a part of one of the sequences, or have one of them as a part."""
    wanted = [_bytes(ids) for ids in sequences]
    for each in sets:
        table = each.entry.table()
        for start in range(0, len(each), _CHUNK):
            for offset, row in enumerate(table.fast_slice(start, min(_CHUNK, len(each) - start)).to_pylist()):
                keys = [_bytes(ids) for ids in _keys(row)]
                found = [any(key in ids or ids in key for ids in wanted) for key in keys]
                # Of a conversation one example may be in the batch, of a pair both answers are.
                if any(found) if row.get("input_ids") else (found and all(found)):
                    yield each.where(start + offset)


def _keys(row: dict[str, Any]) -> list[list[int]]:
    """The token sequences by which a row is known: each of its examples, or its prompt with each of its answers."""
    if row.get("input_ids"):
        return [example["input_ids"] for example in apart(row)]
    prompt = row.get("prompt_ids") or []
    answers = [ids for name, ids in row.items() if name.endswith("_ids") and name != "prompt_ids" and ids]
    return [[*prompt, *ids] for ids in answers] or ([prompt] if prompt else [])


def _bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, np.int32).tobytes()
