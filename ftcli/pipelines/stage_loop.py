"""Run a pipeline: each unfinished stage in order, then measure every policy along the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli.build import gate, restart
from ftcli.build.inputs import run_inputs
from ftcli.build.resume import resumed_spec
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.launch import local
from ftcli.launch.worker_request import WorkerFailed
from ftcli.methods.pipeline import MEASURE, Stage
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.pipelines import final_measures, pipeline_dir, synthesis_stage
from ftcli.pipelines.pipeline_dir import Begun
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.plan.measure import measure
from ftcli.runs import rundir
from ftcli.settings.ownership import REMOTE_CODE
from ftcli.settings.run_spec import LaunchPlan
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA, sha256_of
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

Say = Callable[[str], None]


def state_with_overrides(folder: Path, wanted: PipelineRequest) -> dict[str, Any]:
    """The content of pipeline.json after the overrides of a resumed pipeline. Writes nothing.

    A stage that has not begun accepts any override; one that has begun accepts length and cadence only.

    Raises:
        ConfigError: an override names no single stage, or a finished one, or is invalid.
    """
    problems = []
    for override in wanted.typed():
        stage = override.key[1] if override.key[0] == "stages" and len(override.key) > 2 else ""
        again = f"{shell_word(folder)} {shell_word(override.text)}"
        if override.name == f"method.{MEASURE}":
            continue
        if not stage:
            fix = f"name the stage, or start a new pipeline with ftcli train --from {again}"
            problems.append(Problem(override.text, "applies to every stage, and some may have run", fix))
        elif rundir.is_run(folder / stage) and rundir.read_result(folder / stage) is not None:
            fix = f"ftcli train --from {again} starts a new pipeline and reuses unchanged stages"
            problems.append(Problem(override.text, f"stage {stage} is finished", fix))
    if problems:
        raise ConfigError(*problems)
    begun = _begun(folder, wanted)
    for name in begun:
        if wanted.pipeline.stage(name).task and wanted.own(name):
            fix = f"start a new pipeline with ftcli train --from {shell_word(folder)}, or edit {folder / name / DATA}"
            raise ConfigError(Problem(wanted.own(name)[0].text, f"stage {name} has begun", fix))
        if wanted.pipeline.stage(name).method:
            resumed_spec(folder / name, _own_overrides(wanted, name), wanted.request.grants)
    assert wanted.earlier is not None
    spec = pipeline_spec(_of_stages(wanted, [s.name for s in wanted.pipeline.stages if s.name not in begun]))
    fresh = {name: kept for name, kept in spec.remembered().items() if name not in begun}
    state = rundir.read_pipeline(folder)
    return {**state, "options": dict(wanted.pipeline.chosen), "stages": {**state["stages"], **fresh}}


def resumable_stages(folder: Path, wanted: PipelineRequest, say: Say) -> Begun:
    """The spec and the checkpoint of every run that has begun and is not finished. Writes nothing.

    Raises:
        ConfigError: another process is using a stage, what it reads has changed, all its checkpoints are damaged, or
            its overrides are invalid.
    """
    found = {}
    for stage in wanted.pipeline.stages:
        place = folder / stage.name
        if (wanted.earlier or {})[stage.name].get("ready") or not place.is_dir():
            continue
        if rundir.read_result(place) is not None:
            continue
        rundir.require_free(place)
        if stage.method and rundir.is_run(place):
            spec = resumed_spec(place, _own_overrides(wanted, stage.name), wanted.request.grants)
            if unchecked := run_inputs.require_unchanged(spec, place):
                say(f"stage {stage.name}: {unchecked}")
            found[stage.name] = (spec, local.newest_checkpoint(place, files_to_resume(spec), say))
    return found


def _begun(folder: Path, wanted: PipelineRequest) -> list[str]:
    places = [(stage.name, folder / stage.name) for stage in wanted.pipeline.stages]
    return [name for name, place in places if rundir.is_run(place) or (place / FILE).is_file()]


def _own_overrides(wanted: PipelineRequest, stage: str) -> list[str]:
    """The overrides of a stage, written as for a single run."""
    return [each.text.replace(f"stages.{stage}.", "", 1) for each in wanted.own(stage)]


def _of_stages(wanted: PipelineRequest, stages: Sequence[str]) -> PipelineRequest:
    """The request with only the overrides of the given stages."""
    texts = tuple(each.text for stage in stages for each in wanted.own(stage))
    return replace(wanted, request=replace(wanted.request, overrides=texts))


def run(folder: Path, request: Request, say: Say, begun: Begun) -> int:
    """Run every stage that is not finished, and write result.json.

    Args:
        request: grants and group folders for every stage; the overrides are already in pipeline.json or in `begun`.
        begun: the result of `resumable_stages`.

    Returns:
        0, or the exit code of the worker that ended the pipeline.
    """
    wanted, name = pipeline_dir.load_request(folder, request)
    models: dict[str, str] = {}
    for stage in wanted.pipeline.stages:
        assert wanted.earlier is not None
        kept = wanted.earlier[stage.name]
        place = folder / stage.name
        models[stage.name] = str(kept.get("ready") or (place / DATA if stage.task else place))
        if stage.task and not kept.get("ready"):
            code = _run_synthesis(stage, wanted, models, folder, say)
            if code != EXIT_DONE:
                return code
        elif kept.get("ready"):
            say(f"stage {stage.name}: reusing {kept['ready']}")
        elif rundir.is_run(place) and rundir.read_result(place) is not None:
            say(f"stage {stage.name}: finished")
            _warn_of_changed_rows(stage, place, kept, folder, say)
        else:
            code = _run_stage(stage, wanted, models, folder, name, say, begun)
            if code != EXIT_DONE:
                return code
    try:
        rundir.write_json(folder / rundir.RESULT, _result(folder, name, wanted, models, say))
    except WorkerFailed as failed:
        return failed.code
    return EXIT_DONE


def _run_synthesis(stage: Stage, wanted: PipelineRequest, models: Mapping[str, str], folder: Path, say: Say) -> int:
    """Run a synthesis stage unless it is finished. Each command that resumes it writes make.json again."""
    place = folder / stage.name
    result = rundir.read_result(place) if (place / FILE).is_file() else None
    if result is not None:
        say(f"stage {stage.name}: finished")
        return EXIT_DONE
    feeds = {name: models[source] for name, source in stage.takes.items()}
    spec = synthesis_stage.synthesis_spec(stage, wanted, feeds, folder, for_tiny=False)
    if not (place / FILE).is_file():
        if not (place / ITEMS).is_file():  # recorded answers, which were put there before the pipeline began
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        for source in {stage.takes.get("rows")} - {None}:
            _note_edits(str(source), folder, say)
        _note_rows(stage, pipeline_dir.input_fingerprints(spec), folder)
    with rundir.exclusive(place):
        if (place / FILE).is_file():
            _warn_of_other_spec(stage, place, spec, say)
        rundir.write_atomically(place / FILE, spec.to_json())
        say(f"stage {stage.name}: {stage.summary}")
        final_measures.outdate(folder)
        flags = [REMOTE_CODE] if REMOTE_CODE in wanted.request.grants else []
        plan = LaunchPlan(num_threads=synthesis_threads(wanted, folder))
        code = local.run_worker(place, plan, None, say, command="synthesise", flags=flags)
    if code == EXIT_DONE:
        result = rundir.read_result(place)
        assert result is not None
        dropped = "".join(f", {count} {reason}" for reason, count in result["dropped"].items())
        say(f"stage {stage.name}: {result['rows']} rows from {result['items']} items{dropped}")
    return code


def _warn_of_other_spec(stage: Stage, place: Path, spec: SynthesisSpec, say: Say) -> None:
    """Report a make.json that differs from the stage's spec: the folder may come from somebody else."""
    try:
        other = ", ".join(spec.differences(SynthesisSpec.load(place / FILE)))
    except ConfigError:
        other = "damaged"
    if other:
        say(f"stage {stage.name}: {FILE} differs from pipeline.json ({other}) and is rewritten")


def synthesis_threads(wanted: PipelineRequest, folder: Path) -> int | None:
    """The threads of the first run hold for the synthesis stages too: what is sampled on a CPU depends on them."""
    for name, kept in (wanted.earlier or {}).items():
        if "tree" not in kept:
            continue
        if (typed := kept["tree"]["hardware"].get("num_threads")) is not None:
            return int(typed)
        return gate.opened(folder / name).launch.num_threads if rundir.is_run(folder / name) else None
    return None


def _note_rows(stage: Stage, rows: Mapping[str, str], folder: Path) -> None:
    """Store the fingerprints of the rows that a stage reads."""
    state = rundir.read_pipeline(folder)
    state["stages"][stage.name]["rows"] = rows
    rundir.write_json(folder / rundir.PIPELINE, state)


def _note_edits(stage: str, folder: Path, say: Say) -> None:
    """Record that the rows of a synthesis stage were edited by hand before another stage read them."""
    state = rundir.read_pipeline(folder)
    result = rundir.read_result(folder / stage)
    file = folder / stage / DATA
    if result is None or "sha256" not in result or not file.is_file():
        return
    digest = sha256_of(folder / stage)
    if digest == result["sha256"]:
        return
    rows = sum(1 for line in file.read_bytes().splitlines() if line.strip())
    state["stages"][stage]["edited"] = {"rows": rows, "rows_made": result["rows"], "sha256": digest}
    rundir.write_json(folder / rundir.PIPELINE, state)
    say(f"stage {stage}: using its rows as edited by hand, {rows} instead of {result['rows']}")


def _warn_of_changed_rows(stage: Stage, place: Path, kept: Mapping[str, Any], folder: Path, say: Say) -> None:
    known = kept.get("rows")
    if known is not None and not pipeline_dir.same_rows(pipeline_dir.row_fingerprints(gate.opened(place)), known):
        say(f"  its rows have changed since; to train it again: ftcli train --from {shell_word(folder)}")


def _run_stage(
    stage: Stage,
    wanted: PipelineRequest,
    models: Mapping[str, str],
    folder: Path,
    name: str,
    say: Say,
    begun: Begun,
) -> int:
    place = folder / stage.name
    if resumes := rundir.is_run(place):
        spec, checkpoint = begun[stage.name]
        say(f"stage {stage.name}: resuming from {checkpoint.name if checkpoint else 'the start'}")
    else:
        spec, checkpoint = pipeline_dir.run_spec(stage, wanted, models, folder, name), None
        if measure([spec], say):  # a model that an earlier stage saved has another configuration than its start
            spec = pipeline_dir.run_spec(stage, wanted, models, folder, name)
        shutil.rmtree(place, ignore_errors=True)  # left by a process killed while it created the folder
        if "data.path" in stage.takes:
            _note_edits(stage.takes["data.path"], folder, say)
        _note_rows(stage, pipeline_dir.row_fingerprints(spec), folder)
        local.prepare(spec, ["train", "--resume", str(folder)])
        run_inputs.record(spec, place)
        say(f"stage {stage.name}: {stage.summary}")
    with rundir.exclusive(place):
        settle = restart.replace_spec(place, spec) if resumes else None
        final_measures.outdate(folder)
        code, spec = restart.train(spec, place, checkpoint, say)
        run_inputs.complete(spec, place)
        if settle is not None:
            settle(code)
    return code


def _result(folder: Path, name: str, wanted: PipelineRequest, models: Mapping[str, str], say: Say) -> dict[str, Any]:
    stages = {}
    assert wanted.earlier is not None
    for stage in wanted.pipeline.stages:
        ready = wanted.earlier[stage.name].get("ready")
        result = None if ready else rundir.read_result(folder / stage.name)
        stages[stage.name] = result or {"ready": ready}
    last = wanted.pipeline.stages[-1].name
    return {
        "schema": rundir.SCHEMAS[rundir.RESULT],
        "pipeline": wanted.pipeline.name,
        "name": name,
        "seconds": sum(each.get("seconds", 0.0) for each in stages.values()),
        **final_measures.measured(folder, wanted, models, stages, say),
        "model_dir": str(Path(models[last]) / rundir.MODEL),
        "stages": stages,
    }
