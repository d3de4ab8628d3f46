"""Folders of pipelines, synthesis stages and sweeps, as nobody ran them, and their files for damage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ftcli.config.compose import Request
from ftcli.pipelines import pipeline_dir
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import PipelineSpec, SynthesisStage
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.sweeps import sweep_folder
from ftcli.sweeps.sweep_folder import Sweep, SweepJob
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA
from ftcli.synthesis.synthesis_spec import FILE
from tests.cli.strange_runs import sound


def _spec(method: str, folder: Path) -> PipelineSpec:
    wanted = pipeline_request(Request(overrides=(f"method={method}", f"run.dir={folder}")))
    assert wanted is not None
    return pipeline_spec(wanted)


def pipeline(folder: Path) -> Path:
    """A pipeline whose first stage is done, stopped in its second."""
    spec = _spec("rlhf", folder)
    pipeline_dir.create(spec, ["train", "method=rlhf"])
    first, second, *_ = spec.runs()
    sound(folder / first)
    (folder / second).mkdir()
    (folder / second / rundir.SPEC).write_text(spec.runs()[second].spec.to_json(), encoding="utf-8")
    run_end.write(folder, RunEnd(code=75, message="stopped by SIGTERM"))
    return folder


def stage(folder: Path) -> Path:
    """A synthesis stage that is done."""
    spec = _spec("constitutional", folder)
    made = next(each for each in spec.stages if isinstance(each, SynthesisStage))
    folder.mkdir(parents=True)
    (folder / FILE).write_text(made.spec.to_json(), encoding="utf-8")
    row = {"prompt": "What is it?", "completion": "A stone."}
    item = {"key": "1", "input": {"prompt": "What is it?"}, "replies": [], "row": row}
    (folder / ITEMS).write_text(json.dumps(item) + "\n", encoding="utf-8")
    (folder / DATA).write_text(json.dumps(row) + "\n", encoding="utf-8")
    result = {"schema": 1, "task": made.spec.task, "rows": 1, "items": 1, "seconds": 1.0}
    rundir.write_json(folder / rundir.RESULT, result)
    return folder


def sweep(folder: Path) -> Path:
    """A sweep of two jobs, of which one has begun."""
    jobs = [SweepJob(name=f"lr-{n}", varied={"seed": str(n)}, words=("model=tiny", f"seed={n}")) for n in (1, 2)]
    folder.mkdir(parents=True)
    Sweep(folder=folder, kind="grid", words=["model=tiny", "seed=1,2"], place=os.getcwd(), jobs=jobs).write()
    sound(folder / "lr-1")
    (folder / sweep_folder.RESULTS).write_text("{}\n", encoding="utf-8")
    (folder / sweep_folder.STUDY).write_text("{}\n", encoding="utf-8")
    return folder


FOLDERS: Mapping[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "pipeline": (
        pipeline,
        (
            rundir.PIPELINE,
            rundir.RESULT,
            "measured.json",
            rundir.END,
            rundir.COMMAND,
            "sft/spec.json",
            "sft/result.json",
        ),
    ),
    "stage": (stage, (FILE, ITEMS, DATA, rundir.RESULT)),
    "sweep": (
        sweep,
        (sweep_folder.FILE, sweep_folder.RESULTS, sweep_folder.STUDY, "lr-1/spec.json", "lr-1/result.json"),
    ),
}
"""By kind: what makes one, and its files."""
