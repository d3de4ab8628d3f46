"""`score`: reward scores for the rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftcli.data.scan import as_written
from ftcli.worker.inference.examples import SCORABLE, answered_of, chunks_of
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.process.command import lines


def score(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields {"where", "row", "score"} per row, in order; for a preference pair "scores", chosen first.

    Args:
        request: {"model": a reward model, "data": file, folder or hub id, "trust_remote_code": bool}.

    Raises:
        ConfigError: no such data, or the model is not a reward model.
        DataError: unusable rows.
    """
    judge = RewardModel(request["model"], request)
    for chunk in chunks_of(request["data"], SCORABLE, has_template=judge.as_turns):
        encoded = judge.encoder.encode(chunk)
        answered = [answered_of(each) for each in encoded]
        values = iter(judge.score([ids for each in answered for ids in each]))
        for example, own in zip(chunk, answered, strict=True):
            found = [next(values) for _ in own]
            scored = {"score": found[0]} if len(found) == 1 else {"scores": found}
            yield {"where": example.where, "row": as_written(example), **scored}


COMMAND = lines(score, "scoring answers")
