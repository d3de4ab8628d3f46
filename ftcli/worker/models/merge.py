"""Merging a trained adapter into its base: the result is one plain model that any tool can load.

The base is loaded in the dtype that it is stored in and never quantised: rounding a merged weight to 4 bits changes the
answers.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import adapter_declares, head_of, resolved_source
from ftcli.models.stored_quantisation import stored_quantisation
from ftcli.peft_methods import why_unmerged
from ftcli.runs.checkpoints import publish, staging_path, write_manifest
from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import load_tokenizer, load_trained
from ftcli.worker.tuners.adapter_tensors import merged

PROBE = "The capital of France is Paris. It often rains there in spring, so take an umbrella: 2 + 2 = 4.\n"
"""Ordinary text: on token numbers that never follow each other, rounding alone moves a logit by several units."""


def merge(request: dict[str, Any]) -> dict[str, Any]:
    """Merge an adapter and write the model.

    Args:
        request: {"model": a run or adapter folder, "to": the folder to write, "dtype": float32, bfloat16, float16 or
            auto (as stored), "trust_remote_code": bool}.

    Returns:
        {"model": the folder written, "dtype", "largest_difference": of a logit on a line of text, before and after
        merging, "tokens" of that text, "same_next": at how many of them the likeliest next token is the same; None for
        a reward model}.

    Raises:
        ConfigError: there is no adapter, or it cannot be merged; or the folder already exists.
    """
    source, target = resolved_source(request["model"]), Path(request["to"])
    if not source.is_adapter:
        what = f"{request['model']} is a full model, with no adapter to merge"
        raise ConfigError(Problem(request["model"], what, f"use {source.location} directly"))
    folder = Path(source.location)
    if reason := why_unmerged(str(adapter_declares(folder).get("peft_type"))):
        raise ConfigError(Problem(str(folder), f"cannot be merged: {reason}", "serve the base with the adapter on it"))
    if (stored := stored_quantisation(ModelSettings(name_or_path=str(folder)))) is not None and stored.stays:
        what = (
            f"its base is stored quantised ({stored.name}), and rounding the merged weights again changes the answers"
        )
        raise ConfigError(Problem(str(folder), what, "serve the base with the adapter on it"))
    if target.exists():
        raise ConfigError(Problem(str(target), "already exists", "remove it, or name another folder with --to"))
    remote = bool(request.get("trust_remote_code"))
    settings = ModelSettings(name_or_path=str(folder), dtype=request.get("dtype", "auto"), trust_remote_code=remote)
    model = load_trained(settings, seed=0, device="cpu", head=head_of(folder), as_stored=True)
    tokenizer = load_tokenizer(settings)
    probe = tokenizer(PROBE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(input_ids=probe).logits.float()
        plain = merged(model, str(folder), "serve the base with the adapter on it", safe_merge=True)
        after = plain(input_ids=probe).logits.float()
    same = int((before.argmax(-1) == after.argmax(-1)).sum()) if before.dim() == 3 else None
    staging = staging_path(target.parent, target.name)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        plain.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        write_manifest(staging)
        publish(staging, target)
    except Exception:  # as where the disk is full
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return {
        "model": str(target),
        "dtype": str(plain.dtype).removeprefix("torch."),
        "largest_difference": float((after - before).abs().max()),
        "tokens": probe.shape[1],
        "same_next": same,
    }
