"""`measures`: what a run reaches on rows of a file before and after training, or a model by itself."""

from __future__ import annotations

from typing import Any

from ftcli.settings.groups import ModelSettings
from ftcli.worker.inference.chat import settings_of
from ftcli.worker.inference.metrics import BATCH
from ftcli.worker.inference.reward_model import RewardModel
from ftcli.worker.measures.held_out_rows import requested
from ftcli.worker.measures.on_rows import Rows, Values, line, measure
from ftcli.worker.measures.subjects import Subject, measured
from ftcli.worker.models.load import as_granted, make_encoder, position_limit
from ftcli.worker.process.command import one_answer


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Measure on rows.

    Args:
        request: as for `measured`, and {"data": rows, or None for those that the run held out, "kinds": dataset types
            that are read, "rows": most rows, or None, "measures": names, "reward_model": a model that scores answers,
            or None, "batch_size": rows together}.

    Returns:
        {"rows": how many there were, "lines": as `line`, for each measure}.

    Raises:
        ConfigError: a model that cannot be loaded, or no row to measure.
        DataError: unusable rows.
    """
    rows = _rows(request)
    names: list[str] = request["measures"]

    def each(subject: Subject) -> dict[str, Values]:
        return {name: measure(name, subject, rows) for name in names}

    columns = measured(request, each)
    lines = [line(name, {column: found[name] for column, found in columns.items()}) for name in names]
    return {"rows": len(rows.examples), "lines": lines}


def _rows(request: dict[str, Any]) -> Rows:
    names: list[str] = request["measures"]
    name = str(request["model"])
    settings: ModelSettings = as_granted(settings_of(name), request)
    examples, own = requested(request, make_encoder(settings), request["kinds"], " and ".join(names))
    limit = min(filter(None, (own, position_limit(settings))), default=None)
    judge = RewardModel(request["reward_model"], request) if request.get("reward_model") else None
    return Rows(examples, limit, request.get("batch_size") or BATCH, judge)


COMMAND = one_answer(evaluate, "measuring on rows")
