"""What is shown of a cell: it trains what it says and nothing else, and what it saved is what it was.

Logits before saving are taken at the moment the model is saved; the reloaded ones must be the same bit for bit. A run
that is resumed from the middle must end with the same file.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.plan.outlook import plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.runs.checkpoints import checkpoint_path
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.load import load_trained
from ftcli.worker.training import run as training
from tests.matrix.cells import IDLE, Cell

MERGE_TOLERANCE = 2e-4
"""Largest difference of a logit, in float32, between an adapter and what it was merged into."""
PROBE = torch.arange(5, 29)[None]


@dataclass
class Seen:
    """What was taken down during a run."""

    frozen: dict[str, torch.Tensor]
    trained: dict[str, torch.Tensor]
    moved: list[str]
    still: list[str]
    logits: torch.Tensor | None = None


def spec_for(cell: Cell, folder: Path) -> RunSpec:
    """The spec of a cell.

    Raises:
        ConfigError: the front half refuses it.
    """
    return spec_of(Request(overrides=(*cell.words, f"run.dir={folder}")))


def refusal(cell: Cell, folder: Path) -> str | None:
    """The words in which a cell is refused, or None."""
    try:
        spec_for(cell, folder)
    except ConfigError as error:
        return error.problems[0].what
    return None


def watched(run_dir: Path, resume: Path | None = None) -> tuple[dict[str, Any], Seen]:
    """Train the run in that folder and take down what moved, and the logits of the model that is saved."""
    seen = Seen({}, {}, [], [])
    make, fit, save = training.build_trainer, training.fit, training.save_final

    def trainer_of(run: Any) -> Any:
        trainer = make(run)
        for name, parameter in trainer.model.named_parameters():
            (seen.trained if parameter.requires_grad else seen.frozen)[name] = parameter.detach().clone()
        return trainer

    def fitted(run: Any, trainer: Any, *rest: Any) -> Any:
        outcome = fit(run, trainer, *rest)
        now = dict(trainer.model.named_parameters())
        seen.moved += [name for name, old in seen.frozen.items() if not torch.equal(old, now[name].detach())]
        seen.still += [name for name, old in seen.trained.items() if torch.equal(old, now[name].detach())]
        return outcome

    def saved(trainer: Any, path: Path, dtype: torch.dtype | None = None) -> None:
        seen.logits = logits_of(trainer.accelerator.unwrap_model(trainer.model))
        save(trainer, path, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_trainer", trainer_of)
        patch.setattr(training, "fit", fitted)
        patch.setattr(training, "save_final", saved)
        return training.train(run_dir, resume), seen


def logits_of(model: Any) -> torch.Tensor:
    """Of a fixed sequence, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=PROBE, attention_mask=torch.ones_like(PROBE)).logits
    return found.clone()


def started(spec: RunSpec, folder: Path) -> Path:
    """The folder with the spec in it."""
    folder.mkdir(parents=True)
    (folder / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    return folder


def prove(cell: Cell, folder: Path) -> dict[str, Any]:
    """Show everything of a cell that can be trained; what came of it."""
    spec = spec_for(cell, folder / "run")
    run_dir = started(spec, folder / "run")
    result, seen = watched(run_dir)
    declared = peft_method(spec.peft)
    assert seen.moved == [], f"frozen parameters moved: {seen.moved[:3]}"
    idle = IDLE.get(str(spec.peft.get("type")))
    still = [name for name in seen.still if idle is None or idle not in name]
    assert still == [], f"trainable parameters stood still: {still[:3]}"
    planned = plan(ResolvedRun.of(spec)).trainable
    assert planned in (None, result["parameters"]["trainable"])
    assert planned is not None or (declared is not None and declared.name == "other")
    _reloads(spec, run_dir, seen)
    _resumes(run_dir, folder)
    merged = _merges(spec, run_dir)
    return {"trainable": result["parameters"]["trainable"], "merged": merged}


def _load(spec: RunSpec, run_dir: Path, **more: Any) -> Any:
    settings = replace(spec.model, name_or_path=str(run_dir / rundir.MODEL), init="pretrained")
    head = get_method(spec.choices["method"]).head
    return load_trained(settings, seed=1, device="cpu", head=head, **more)


def _reloads(spec: RunSpec, run_dir: Path, seen: Seen) -> None:
    loaded = logits_of(_load(spec, run_dir, quantisation=spec.quantisation))
    assert seen.logits is not None
    difference = float((loaded - seen.logits).abs().max())
    assert torch.equal(loaded, seen.logits), f"reloaded logits differ by {difference:.2g}"


def _resumes(run_dir: Path, folder: Path) -> None:
    broken = folder / "resumed"
    broken.mkdir()
    shutil.copy(run_dir / rundir.SPEC, broken)
    middle = checkpoint_path(run_dir / rundir.CHECKPOINTS, 2)
    shutil.copytree(middle, checkpoint_path(broken / rundir.CHECKPOINTS, 2))
    watched(broken, checkpoint_path(broken / rundir.CHECKPOINTS, 2))
    ours, theirs = (_weights(each) for each in (run_dir, broken))
    assert ours.keys() == theirs.keys()
    odd = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert odd == [], f"resumed weights differ: {odd[:3]}"


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    (path,) = (run_dir / rundir.MODEL).glob("*.safetensors")
    return load_file(path)


def _merges(spec: RunSpec, run_dir: Path) -> float | None:
    """The largest difference of a logit after merging into the base as it is stored; None where nothing is merged."""
    declared = peft_method(spec.peft)
    if declared is None or declared.never_merges:
        return None
    model = _load(spec, run_dir)
    before = logits_of(model)
    difference = float((logits_of(model.merge_and_unload()) - before).abs().max())
    assert difference < MERGE_TOLERANCE, f"merged logits differ by {difference:.2g}"
    return difference
