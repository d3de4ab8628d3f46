"""A pipeline's directory: what was asked for, kept so that it goes on from any stage or begins anew from some.

PIPELINE/  pipeline.json  command.sh  STAGE/ (a run directory each)  result.json
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli import rundir, sources
from ftcli.build import build
from ftcli.compose import Request, compose
from ftcli.data.fingerprint import fingerprint
from ftcli.errors import ConfigError, Problem
from ftcli.methods import all_pipelines, get_method
from ftcli.pipeline.asked import Asked
from ftcli.pipeline.base import Stage
from ftcli.pipeline.stages import PipelineSpec, in_folder, remembered, settled, stage_request
from ftcli.spec import RunSpec

SCHEMA = 1


def create(spec: PipelineSpec, argv: Sequence[str]) -> Path:
    """Make the directory with pipeline.json and command.sh.

    Raises:
        ConfigError: it holds something already, or cannot be made.
    """
    folder = spec.dir
    if folder.is_dir() and any(folder.iterdir()):
        known = rundir.is_run(folder) or rundir.is_pipeline(folder)
        fix = f"go on with ftcli train --resume {folder}, or choose another run.dir" if known else "choose another"
        raise ConfigError(Problem(f"run.dir={folder}", "the directory is not empty", fix))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made a directory: {error.strerror}"
        raise ConfigError(Problem(f"run.dir={folder}", what, "choose another run.dir")) from None
    keep(folder, spec.pipeline.name, spec.name, remembered(spec))
    rundir.write_atomically(folder / rundir.COMMAND, "#!/bin/sh\n" + shlex.join(["ftcli", *argv]) + "\n")
    return folder.resolve()


def keep(folder: Path, pipeline: str, name: str, stages: Mapping[str, Any]) -> None:
    """Write pipeline.json."""
    content = {"schema": SCHEMA, "pipeline": pipeline, "name": name, "stages": stages}
    rundir.write_json(folder / rundir.PIPELINE, content)


def recalled(folder: Path, request: Request) -> tuple[Asked, str]:
    """The request of an earlier pipeline with another one's overrides over it, and its name.

    Raises:
        ConfigError: pipeline.json is damaged, or of a pipeline that this ftcli does not know.
    """
    state, where = rundir.read_pipeline(folder), str(folder / rundir.PIPELINE)
    pipeline = all_pipelines().get(str(state.get("pipeline")))
    if pipeline is None or {stage.name for stage in pipeline.stages} != set(state["stages"]):
        known = ", ".join(all_pipelines())
        raise ConfigError(Problem(where, "is of a pipeline that this ftcli does not know", f"it knows {known}"))
    asked = Asked(request=request, pipeline=pipeline, earlier=state["stages"], earlier_where=where)
    return asked, str(state.get("name"))


def run_spec(stage: Stage, wanted: Asked, models: Mapping[str, str], folder: Path, name: str) -> RunSpec:
    """The spec of a stage on the models that other stages have made.

    Args:
        models: the model or run of each stage before it.

    Raises:
        ConfigError: everything that is wrong.
    """
    assert wanted.earlier is not None
    fed = wanted.earlier[stage.name]["fed"]
    feeds = {setting: models[stage.takes[setting]] for setting in fed}
    return build(in_folder(compose(stage_request(stage, wanted, feeds)), folder, name))


def rows_of(spec: RunSpec) -> dict[str, str]:
    """Fingerprints of the files that a run reads, by setting and file."""
    method = get_method(spec.choices["method"])
    return {
        f"{each.key}:{file.name}": fingerprint(file)
        for each in sources.every_set(spec.data, method)
        for file in sources.fetched(each)
    }


def taken_over(old: Path, wanted: Asked, folder: Path, name: str) -> dict[str, Path]:
    """The finished stages of an earlier pipeline that would be trained to the same end again.

    A stage is one of them where its settings, the rows that it reads and the models that it starts from are the same.
    """
    assert wanted.earlier is not None
    found: dict[str, Path] = {}
    models = {name: str(kept["ready"]) for name, kept in wanted.earlier.items() if kept.get("ready")}
    for stage in wanted.pipeline.stages:
        run, kept = old / stage.name, wanted.earlier[stage.name]
        if stage.task:
            continue
        if stage.name in models or not rundir.is_run(run) or rundir.read_result(run) is None:
            continue
        if any(stage.takes[setting] not in models for setting in kept["fed"]):
            continue
        spec = run_spec(stage, wanted, models, folder, name)
        if settled(spec) == settled(RunSpec.load(run / rundir.SPEC)) and rows_of(spec) == kept.get("rows"):
            found[stage.name] = run
            models[stage.name] = str(run)
    return found


def with_ready(wanted: Asked, ready: Mapping[str, Path]) -> Asked:
    """The request with finished runs in the place of some stages."""
    assert wanted.earlier is not None
    return replace(wanted, earlier={**wanted.earlier, **{name: {"ready": str(run)} for name, run in ready.items()}})
