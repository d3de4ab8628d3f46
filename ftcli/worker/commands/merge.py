"""`merge`: merges adapters into their base model, and measures how far the written model is from what was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.export.combining import Combination
from ftcli.models.sources import head_of, resolved_source
from ftcli.runs import rundir
from ftcli.runs.model_card import model_card
from ftcli.settings.groups import ModelSettings
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.measures.divergence import difference, predictions, within
from ftcli.worker.measures.held_out_rows import Rows, rows_of
from ftcli.worker.models.load import UNQUANTISED, load_model, load_tokenizer, make_encoder
from ftcli.worker.models.merge import (
    Merge,
    Staged,
    as_trained,
    merged_plain,
    name_of,
    on_base,
    require_mergeable,
    stored_dtype,
    write,
)
from ftcli.worker.process.command import one_answer

SCHEMA = 1
ROWS = 32


def merge(request: dict[str, Any]) -> dict[str, Any]:
    """Merge adapters and write the model.

    Args:
        request: {"models": runs or adapter folders, "to": the folder to write, "dtype": float32, bfloat16, float16 or
            auto (as stored), "base": stored or dequantised, "combination": None, or {"how", "weights", "density"} for
            several, "rows": how many rows to compare on at most, "data": a file of such rows or None,
            "trust_remote_code": bool}; what is left out is auto, stored, none, 32, none, false.

    Returns:
        {"schema", "model": the folder written, "dtype", "differences": for each adapter {"run", "on": what rows they
        are, "why": why not those that the run held out, and the measures of ftcli.models.export.served_difference}}.

    Raises:
        ConfigError: there is no adapter, or it cannot be merged; or the folder already exists.
        DiskError: the disk has no room for it.
    """
    target, work = Path(request["to"]), _work(request)
    require_mergeable(work)
    if target.exists():
        raise ConfigError(Problem(str(target), "already exists", "remove it, or name another folder with --to"))
    tokenizer = load_tokenizer(work.settings)
    compared = _rows(request, work, len(tokenizer))
    model, trained = _predicted(work, compared)
    chosen = request.get("dtype", "auto")
    dtype = stored_dtype(work.settings) if chosen == "auto" else getattr(torch, chosen)
    with Staged(target) as staged:
        write(merged_plain(work, model), tokenizer, staged.folder, dtype, _card(request["models"]))
        del model
        differences = _differences(staged.folder, compared, trained)
        staged.publish()
    for name, one in zip(request["models"], differences, strict=True):
        one["run"] = str(name)
    written = str(dtype).removeprefix("torch.")
    return {"schema": SCHEMA, "model": str(target), "dtype": written, "differences": differences}


def _work(request: dict[str, Any]) -> Merge:
    """What is to be merged.

    Raises:
        ConfigError: a model is none, or has no adapter.
    """
    folders, quantisations = [], []
    for name in map(str, request["models"]):
        source = resolved_source(name)
        if not source.is_adapter:
            what = f"{name} is a full model, with no adapter to merge"
            raise ConfigError(Problem(name, what, f"use {source.location} directly"))
        folders.append(Path(source.location))
        run = rundir.find_run(name)
        quantisations.append(RunSpec.load(run / rundir.SPEC).quantisation if run is not None else UNQUANTISED)
    combined = request.get("combination")
    return Merge(
        folders,
        request.get("base") == "dequantised",
        quantisations,
        Combination(**combined) if combined else None,
        bool(request.get("trust_remote_code")),
    )


def _rows(request: dict[str, Any], work: Merge, vocabulary: int) -> list[Rows]:
    """The rows to compare on, for each adapter those of its run."""
    found = []
    for name, folder in zip(map(str, request["models"]), work.folders, strict=True):
        encoder = make_encoder(work.settings_of(folder))
        rows = rows_of(name, encoder, int(request.get("rows") or ROWS), data=request.get("data"))
        found.append(rows._replace(rows=within(rows.rows, vocabulary, len(work.folders))))
    return found


def _predicted(work: Merge, compared: Sequence[Rows]) -> tuple[Any, list[list[Tensor]]]:
    """The base with the adapters on it, to be merged, and what each predicts on its rows as it was trained.

    The predictions are kept instead of the models, so that one model at a time is in memory.
    """
    if work.saw_quantised:
        trained = [predictions(as_trained(work, index), rows.rows) for index, rows in enumerate(compared)]
        return on_base(work), trained
    model, trained = on_base(work), []
    for index, rows in enumerate(compared):
        if len(compared) > 1:
            model.set_adapter(name_of(index))
        trained.append(predictions(model, rows.rows))
    return model, trained


def _differences(folder: Path, compared: Sequence[Rows], trained: Sequence[Sequence[Tensor]]) -> list[dict[str, Any]]:
    """How far the model that was written is from each one that was trained, in the type that it has on the disk."""
    settings = ModelSettings(name_or_path=str(folder))
    served = load_model(settings, seed=0, device="cpu", head=head_of(folder), as_stored=True)
    return [
        {"on": rows.source, "why": rows.why, **difference(own, predictions(served, rows.rows)).as_json()}
        for own, rows in zip(trained, compared, strict=True)
    ]


def _card(models: Sequence[str]) -> str:
    """The card of a merged run; empty for several, and for what is no finished run."""
    run = rundir.find_run(str(models[0])) if len(models) == 1 else None
    result = rundir.read_result(run) if run is not None else None
    return model_card(RunSpec.load(run / rundir.SPEC), result, is_adapter=False) if run and result else ""


COMMAND = one_answer(merge, "merging the adapter")
