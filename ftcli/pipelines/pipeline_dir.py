"""A pipeline's directory: its stored request, from which it resumes at any stage, or a new pipeline reuses stages.

PIPELINE/  pipeline.json  inputs.json  command.sh  STAGE/ (a run directory each)  result.json
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ftcli.build import gate
from ftcli.build.inputs import run_inputs
from ftcli.build.inputs.moved_inputs import Moved
from ftcli.build.resume import values_of, without
from ftcli.config.compose import Request, compose
from ftcli.core.errors import ConfigError, Problem
from ftcli.data import row_sets
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.fingerprint import fingerprint
from ftcli.methods import all_pipelines, get_method
from ftcli.methods.pipeline import Pipeline, Stage
from ftcli.pipelines import moved_stages, stage_inputs, synthesis_stage
from ftcli.pipelines.pipeline_request import PipelineRequest, options
from ftcli.pipelines.stage_specs import fed_by, in_folder, settled, stage_request, stage_run
from ftcli.pipelines.stages import PipelineSpec
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec, as_then
from ftcli.synthesis.runner import DATA
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

Begun = Mapping[str, tuple[RunSpec, Path | None]]
"""For each run that has begun and is not finished: the spec it resumes with, and the checkpoint it resumes from."""


def create(
    spec: PipelineSpec, argv: Sequence[str], answers: Mapping[str, Mapping[str, Path]] = MappingProxyType({})
) -> Path:
    """Create the directory with pipeline.json and command.sh.

    Args:
        answers: by stage, the recorded answers that it takes in place of asking: files by their place in its folder.

    Raises:
        ConfigError: the directory is not empty, or cannot be created.
    """
    with rundir.created(spec.dir) as folder:
        for stage, files in answers.items():
            for place, file in files.items():
                (folder / stage / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / stage / place)
        save(folder, spec.pipeline, spec.name, spec.remembered(), built_in=spec.built_in)
        stage_inputs.record(spec, folder)
        rundir.write_atomically(folder / rundir.COMMAND, "#!/bin/sh\n" + shlex.join(["ftcli", *argv]) + "\n")
    return folder


def save(folder: Path, pipeline: Pipeline, name: str, stages: Mapping[str, Any], *, built_in: bool) -> None:
    """Write pipeline.json."""
    known = {
        "schema": rundir.SCHEMAS[rundir.PIPELINE],
        "pipeline": pipeline.name,
        "options": dict(pipeline.chosen),
        "name": name,
    }
    content = {**known, "built_in": built_in, "stages": stages}
    rundir.write_json(folder / rundir.PIPELINE, content)


def load_request(
    folder: Path, request: Request, *, locate: Literal["from", "resume"] | None = None
) -> tuple[PipelineRequest, str]:
    """The stored request of a pipeline with the overrides of a new one applied, and the pipeline's name.

    Args:
        locate: look for what is not where pipeline.json says, for a new pipeline, or to resume this one: then what is
            typed for it only says where it lies, and is left out of the overrides.

    Raises:
        ConfigError: pipeline.json is damaged, or describes a pipeline that this version of ftcli does not know.
    """
    state, where = rundir.read_pipeline(folder), str(folder / rundir.PIPELINE)
    pipeline = all_pipelines().get(str(state.get("pipeline")))
    if pipeline is not None:
        pipeline = pipeline.arranged(state.get("options", {}))
    if pipeline is None or {stage.name for stage in pipeline.stages} != set(state["stages"]):
        known = ", ".join(all_pipelines())
        what = "describes a pipeline that this version of ftcli does not know"
        raise ConfigError(Problem(where, what, f"it knows {known}"))
    built_in = bool(state.get("built_in"))
    stages = {name: _as_then(kept) for name, kept in state["stages"].items()}
    found = PipelineRequest(request=request, pipeline=pipeline, earlier=stages, earlier_where=where, built_in=built_in)
    if locate is not None:
        typed = values_of(request.overrides)
        moved = moved_stages.moved(folder, stages, typed, resumes=locate == "resume")
        left = replace(request, overrides=without_moved(request.overrides, moved))
        stages = moved_stages.with_places(stages, moved.places)
        found = replace(found, request=left, earlier=stages, moved=moved)
    changed = options(pipeline, found.typed())
    if changed:
        found = replace(found, pipeline=pipeline.arranged({**pipeline.chosen, **changed}))
    return found, str(state.get("name"))


def without_moved(overrides: Sequence[str], moved: Moved) -> tuple[str, ...]:
    """The overrides without those that only say where something lies."""
    of_all = {name.split(".", 2)[2] for name in moved.typed}
    return without(overrides, {*moved.typed, *of_all})


def adopt(folder: Path, request: Request, say: Callable[[str], None]) -> Request:
    """Write into a copied pipeline where what its stages read lies here, before it is resumed; its lock is held.

    Returns:
        The request without the overrides that only say so.

    Raises:
        ConfigError: something is not here, or is not what a stage read.
    """
    wanted, _ = load_request(folder, request, locate="resume")
    moved_stages.adopt(folder, wanted.earlier or {}, wanted.moved, say)
    return wanted.request


def _as_then(kept: dict[str, Any]) -> dict[str, Any]:
    """A stage's entry in pipeline.json, with the settings that its data had when it was written."""
    if "data" not in kept.get("tree", {}):
        return kept
    return {**kept, "tree": {**kept["tree"], "data": as_then(kept["tree"]["data"])}}


def run_spec(stage: Stage, wanted: PipelineRequest, models: Mapping[str, str], folder: Path, name: str) -> RunSpec:
    """The spec of a stage, with the models of the stages before it.

    Args:
        models: the model or run of each earlier stage.

    Raises:
        ConfigError: all problems found.
    """
    assert wanted.earlier is not None
    fed = wanted.earlier[stage.name]["fed"]
    feeds = {setting: fed_by(stage, wanted, setting, models[stage.takes[setting]]) for setting in fed}
    return stage_run(stage, wanted, in_folder(compose(stage_request(stage, wanted, feeds)), folder, name)).spec


def row_fingerprints(spec: RunSpec) -> dict[str, str]:
    """Fingerprints of the files that a run reads, keyed by setting and file name."""
    method = get_method(spec.choices["method"])
    return {
        f"{each.key}:{file.name}": fingerprint(file)
        for each in row_sets.every_set(spec.data, method)
        for file in row_sets.fetched(each)
    }


def reusable_stages(old: Path, wanted: PipelineRequest, folder: Path, name: str) -> dict[str, Path]:
    """The finished stages of an earlier pipeline whose result would be the same: a run's folder, or a stage's rows.

    A stage is reusable if its settings, its input rows, the files that it names and the models that it starts from are
    the same. Generated rows that were edited by hand are reused with the edits.

    Raises:
        ConfigError: the record of what the pipeline began with is damaged.
    """
    assert wanted.earlier is not None
    known = run_inputs.recorded(old) or {}
    found: dict[str, Path] = {}
    models = {name: str(kept["ready"]) for name, kept in wanted.earlier.items() if kept.get("ready")}
    for stage in wanted.pipeline.stages:
        run, kept = old / stage.name, wanted.earlier.get(stage.name, {})
        if stage.task:
            rows = _reusable_rows(stage, run, wanted, models, known)
            if rows is not None:
                found[stage.name] = rows
                models[stage.name] = str(rows)
            continue
        if stage.name in models or not rundir.is_run(run) or rundir.read_result(run) is None:
            continue
        if any(stage.takes[setting] not in models for setting in kept["fed"]):
            continue
        spec = run_spec(stage, wanted, models, folder, name)
        made = moved_stages.as_here(gate.opened(run), run, wanted.moved)
        same = settled(spec) == settled(made) and same_rows(row_fingerprints(spec), kept.get("rows"))
        if same and not stage_inputs.changed(known, stage.name, spec):
            found[stage.name] = run
            models[stage.name] = str(run)
    return found


def _reusable_rows(
    stage: Stage,
    place: Path,
    wanted: PipelineRequest,
    models: Mapping[str, str],
    known: Mapping[str, run_inputs.Record],
) -> Path | None:
    """The rows of a finished synthesis stage, if a new one would have the same spec and input; else None."""
    if not (place / FILE).is_file() or rundir.read_result(place) is None or not (place / DATA).is_file():
        return None
    if any(source not in models for source in stage.takes.values()):
        return None
    feeds = {name: models[source] for name, source in stage.takes.items()}
    again = synthesis_stage.synthesis_spec(stage, wanted, feeds, place.parent, for_tiny=False)
    made = SynthesisSpec.load(place / FILE)
    kept = moved_stages.rows_as_here(made, wanted.moved, Path(made.dir).parent, place.parent)
    rows = (wanted.earlier or {}).get(stage.name, {}).get("rows")
    same = not again.differences(replace(kept, dir=again.dir)) and (
        rows is None or same_rows(input_fingerprints(again), rows)
    )
    return place / DATA if same and not stage_inputs.changed(known, stage.name, again) else None


def same_rows(now: Mapping[str, str], known: Mapping[str, str] | None) -> bool:
    """Whether files have the bytes that they had, wherever they lie: in the same order, as they are read."""
    return known is not None and [*now.values()] == [*known.values()]


def input_fingerprints(spec: SynthesisSpec) -> dict[str, str]:
    """Fingerprints of the files that a synthesis stage reads."""
    file = row_sets.set_file(spec.rows, "train")
    if not os.path.isfile(file):
        return {}
    return {file: fingerprint(DataFile(path=file, name=os.path.basename(file)))}


def with_ready(wanted: PipelineRequest, ready: Mapping[str, Path]) -> PipelineRequest:
    """The request with finished runs or rows reused for some stages."""
    assert wanted.earlier is not None
    return replace(wanted, earlier={**wanted.earlier, **{name: {"ready": str(run)} for name, run in ready.items()}})
