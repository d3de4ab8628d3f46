"""What a model predicts on given rows, and how far that is from what another predicts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftcli.models.export.served_difference import Difference

LOGIT_BYTES = 2**30
"""The logits that are held for comparing take at most this much: some 1,800 tokens of a vocabulary of 150,000."""


class Row(NamedTuple):
    """The tokens of one row."""

    ids: Sequence[int]
    compared: Sequence[bool]
    """For each token whether its prediction is compared: those of answers, as far as a row has any."""


def within(rows: Sequence[Row], vocabulary: int, share: int = 1) -> list[Row]:
    """The first rows whose logits fit into what may be held, at least one, cut where it alone is too long.

    Args:
        share: among how many such sets of rows the room is divided.
    """
    room = max(1, LOGIT_BYTES // (4 * vocabulary * share))
    kept = list[Row]()
    for row in rows:
        room -= sum(row.compared)
        if room < 0 and kept:
            break
        kept.append(row)
    # A single row that is too long loses its last tokens.
    while sum(kept[0].compared) * 4 * vocabulary * share > LOGIT_BYTES and len(kept[0].ids) > 2:
        kept[0] = Row(kept[0].ids[:-1], kept[0].compared[:-1])
    return kept


def predictions(model: Any, rows: Sequence[Row]) -> list[Tensor]:
    """For each row the logits of its compared tokens, (tokens, vocabulary), or its score, (1,), in float32."""
    found = []
    for row in rows:
        ids = torch.tensor([list(row.ids)], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().cpu()
        if logits.dim() == 3:
            # A prediction stands one place before its token.
            found.append(logits[0, :-1][torch.tensor(list(row.compared[1:]), dtype=torch.bool)].clone())
        else:
            found.append(logits[0])
    return found


def difference(trained: Sequence[Tensor], served: Sequence[Tensor]) -> Difference:
    """How far the predictions of a served model are from those of the trained one, on the same rows."""
    largest = max(float((ours - theirs).abs().max()) for ours, theirs in zip(trained, served, strict=True))
    if trained[0].dim() == 1:
        return Difference(len(trained), len(trained), None, None, largest)
    tokens = sum(each.size(0) for each in trained)
    divergence, same = 0.0, 0
    for ours, theirs in zip(trained, served, strict=True):
        logps, theirs_logps = ours.log_softmax(-1), theirs.log_softmax(-1)
        divergence += float((logps.exp() * (logps - theirs_logps)).sum(-1).double().sum())
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    return Difference(len(trained), tokens, max(0.0, divergence / tokens), same / tokens, largest)
