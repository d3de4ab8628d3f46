"""`score`: the rows of a file scored by a reward model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftcli.worker.inference.examples import SCORABLE, answered_of, chunks_of
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.process.command import lines


def score(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One {"where", "row", "score"} for each row, in order; of a preference "scores", chosen before rejected.

    Args:
        request: {"model": a reward model, "data": file, folder or hub id, "trust_remote_code": bool}.

    Raises:
        ConfigError: no such data, or no reward model.
        DataError: rows that are unusable.
    """
    judge = RewardModel(request["model"], request)
    for chunk in chunks_of(request["data"], SCORABLE):
        encoded = judge.encoder.encode(chunk)
        answered = [answered_of(each) for each in encoded]
        values = iter(judge.score([ids for each in answered for ids in each]))
        for example, own in zip(chunk, answered, strict=True):
            found = [next(values) for _ in own]
            scored = {"score": found[0]} if len(found) == 1 else {"scores": found}
            yield {"where": example.where, "row": example.value, **scored}


COMMAND = lines(score)
