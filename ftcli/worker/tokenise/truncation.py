"""Truncating and splitting rows that are too long, as pure functions of their tokens.

Every truncation is counted, and so is every end token that it removes: a model that never sees its answers end does not
learn to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ftcli.worker.tokenise.encoder import IGNORED

Columns = dict[str, Any]
"""Lists by column, of token ids or of `weights`; `margin`, `row_weight` and
`chosen_probability` are numbers, and `row` is text.

A conversation that is unrolled has its training examples one after the other in these lists, and the length of each in
`examples`."""
_ANSWERS = ("chosen_ids", "rejected_ids")


def laid_out(examples: Sequence[Columns]) -> Columns:
    """The training examples of one conversation as one row."""
    if len(examples) == 1:
        return examples[0]
    lengths = [len(each["input_ids"]) for each in examples]
    row: Columns = {name: [token for each in examples for token in each[name]] for name in ("input_ids", "labels")}
    if any("weights" in each for each in examples):
        own = zip(examples, lengths, strict=True)
        row["weights"] = [weight for each, length in own for weight in each.get("weights") or [1.0] * length]
    return {**row, "examples": lengths}


def apart(row: Columns) -> list[Columns]:
    """The training examples of a row, nearly always the row alone."""
    lengths = row.get("examples")
    if not lengths:
        return [{name: value for name, value in row.items() if name != "examples"} if "examples" in row else row]
    lists = {name: row[name] for name in ("input_ids", "labels", "weights") if row.get(name) is not None}
    ends = list(accumulate(lengths))
    return [
        {name: ids[end - length : end] for name, ids in lists.items()}
        for end, length in zip(ends, lengths, strict=True)
    ]


def parts_of(row: Columns, limit: int, overflow: str, bos: int | None = None) -> list[Columns]:
    """The parts that a row of more than `limit` tokens becomes; none if no trained token would be left.

    Of an unrolled conversation each training example is cut for itself, if it is too long.

    Args:
        row: `input_ids` and `labels`, perhaps with `weights`, or `prompt_ids`, `chosen_ids` and `rejected_ids`; a label
            has one of them empty.
        overflow: truncate_left, truncate_right or split.
        bos: a token that stays first when the left side is truncated.
    """
    if row.get("examples"):
        return [
            part
            for each in apart(row)
            for part in ([each] if len(each["input_ids"]) <= limit else parts_of(each, limit, overflow, bos))
        ]
    if "row" in row:
        ids = row["prompt_ids"]
        kept = 1 if bos is not None and ids[:1] == [bos] and limit > 1 else 0
        cut = ids[:limit] if overflow == "truncate_right" else ids[:kept] + ids[len(ids) - limit + kept :]
        return [{**row, "prompt_ids": cut}]
    if "prompt_ids" in row:
        part = _cut_pair(row, limit, overflow, bos)
        return [part] if all(bool(part[side]) == bool(row[side]) for side in _ANSWERS) else []
    length = len(row["input_ids"])
    lists = {name: ids for name, ids in row.items() if ids is not None}  # the weights may be null, which is 1
    if overflow == "split":
        cuts = [*range(0, length, limit), length]
        if cuts[-1] - cuts[-2] == 1 and limit > 2:
            cuts[-2] -= 1  # a single token has nothing to be predicted from, and would be lost
        parts = [{name: ids[start:end] for name, ids in lists.items()} for start, end in pairwise(cuts)]
    elif overflow == "truncate_right":
        parts = [{name: ids[:limit] for name, ids in lists.items()}]
    else:
        kept = 1 if bos is not None and row["input_ids"][0] == bos else 0
        parts = [{name: ids[:kept] + ids[length - limit + kept :] for name, ids in lists.items()}]
    return [part for part in parts if trains(part)]


def _cut_pair(row: Columns, limit: int, overflow: str, bos: int | None) -> Columns:
    """Both answers keep one prompt. From the left only the prompt is truncated: an answer needs its beginning."""
    prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
    if overflow == "truncate_left":
        room = limit - max(len(chosen), len(rejected))
        if room <= 0:
            return {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        kept = 1 if bos is not None and prompt[:1] == [bos] and room > 1 else 0
        return {**row, "prompt_ids": prompt[:kept] + prompt[max(0, len(prompt) - room) + kept :]}
    room = max(0, limit - len(prompt))
    return {**row, "chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}


def trains(part: Columns) -> bool:
    """Whether any token of `input_ids` and `labels` is trained; the first has nothing to be predicted from."""
    return counted(part)[2] > 0


def counted(row: Columns) -> tuple[int, int, int]:
    """The tokens of a row's longest sequence, of all its sequences, and the trained ones.

    The first token of a sequence has nothing to be predicted from. An empty answer is no sequence. A prompt alone
    counts as trained, since its answers are sampled later.
    """
    if row.get("examples"):
        lengths, totals, trained = zip(*map(counted, apart(row)), strict=True)
        return max(lengths), sum(totals), sum(trained)
    if "input_ids" in row:
        labels = row["labels"]
        length = len(labels)
        return length, length, length - labels.count(IGNORED) - (labels[:1] != [IGNORED] and length > 0)
    if "row" in row:
        length = len(row["prompt_ids"])
        return length, length, length
    prompt, answers = len(row["prompt_ids"]), [len(row[side]) for side in _ANSWERS if row[side]]
    return prompt + max(answers, default=0), len(answers) * prompt + sum(answers), sum(answers)


def loses_end(row: Columns, limit: int, overflow: str) -> bool:
    """Whether truncation removes the last trained token of a row, or of one of its answers."""
    if overflow != "truncate_right":
        return False
    if "row" in row:
        return False
    if "prompt_ids" in row:
        return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) > limit
    return any(label != IGNORED for each in apart(row) for label in each["labels"][limit:])
