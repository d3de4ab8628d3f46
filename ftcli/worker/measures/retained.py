"""How likely a model finds the rows of a retention set, before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftcli.data.scan import Example
from ftcli.evaluations.retention import RetentionRow, RetentionSet
from ftcli.worker.inference import metrics
from ftcli.worker.measures import intervals
from ftcli.worker.tokenise.encoder import IGNORED, Encoder, Ids

BATCH = 8

Values = dict[str, list[float]]
"""The mean log-probability of each row's answer tokens in nats, by kind."""


def retained(
    model: Any, encoder: Encoder, rows: RetentionSet, limit: int | None = None, batch_size: int = BATCH
) -> Values:
    """What a model has of a set.

    Args:
        limit: tokens that it has positions for; what is longer is cut.
        batch_size: rows that are in memory together.

    Raises:
        DataError: the chat template refuses a row.
    """
    pairs = [_divided(encoder, row) for row in rows.rows]
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    with metrics.undisturbed(), metrics.evaluating(model):
        _, means = metrics.logps(model, encoder, prompts, answers, limit, batch_size=batch_size)
    found: Values = {kind: [] for kind in rows.kinds}
    for row, value in zip(rows.rows, means.tolist(), strict=True):
        found[row.kind].append(value)
    return found


def _divided(encoder: Encoder, row: RetentionRow) -> tuple[Ids, Ids]:
    """The tokens that are given, and those that are measured, as a run would train them."""
    if row.prompt is None:
        [encoded] = encoder.encode([Example("", "text", {"text": row.text})])
    elif encoder.has_template:
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.text}]
        [encoded] = encoder.encode([Example("", "messages", {"messages": turns})])
    else:
        pair = {"prompt": f"{row.prompt}\n", "completion": row.text}
        [encoded] = encoder.encode([Example("", "pair", pair)])
    ids, labels = encoded.columns["input_ids"], encoded.columns["labels"]
    trained = [place for place, label in enumerate(labels) if label != IGNORED]
    first = max(1, trained[0])  # nothing stands before the first token that would make it likely
    return ids[:first], ids[first : trained[-1] + 1]


def compared(rows: RetentionSet, before: Values, after: Values) -> dict[str, Any]:
    """What was gained and lost, in all and by kind, for result.json."""
    sides = {"before": before, "after": after}
    kinds = {
        kind: {
            "rows": len(before[kind]),
            **{side: _mean(values[kind]) for side, values in sides.items()},
            "difference": intervals.difference(before[kind], after[kind]),
        }
        for kind in rows.kinds
    }
    means = {side: _mean([_mean(each) for each in values.values()]) for side, values in sides.items()}
    return {
        "set": rows.name,
        "digest": rows.digest,
        "rows": len(rows.rows),
        **means,
        "difference": intervals.difference_of_kinds(before, after),
        "kinds": kinds,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def well_formed(values: Any, rows: RetentionSet) -> bool:
    """Whether a file has the values of each row of a set."""
    return isinstance(values, Mapping) and all(
        isinstance(values.get(kind), list)
        and len(values[kind]) == sum(row.kind == kind for row in rows.rows)
        and all(isinstance(value, float) for value in values[kind])
        for kind in rows.kinds
    )
