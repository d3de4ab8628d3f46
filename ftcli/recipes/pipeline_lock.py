"""A pipeline's lock: what its stages read that no stage made, and what each of them came to.

What a stage takes from another is no file of the lock: it is part of the other's outcome. An endpoint answers as it
likes, so that what it answered is kept beside the recipe, in RECIPE.answers/; with it the pipeline is made again bit
for bit, and without it whatever follows from those answers is other than the locked one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.build.inputs import run_inputs
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.methods.pipeline import MEASURE, Pipeline
from ftcli.pipelines import pipeline_dir, stage_inputs
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.stage_inputs import takes_model
from ftcli.pipelines.stages import ROWS_OF_TASK, PipelineSpec, ReadyStage, RunStage, SynthesisStage, location
from ftcli.recipes import locking, outcome
from ftcli.recipes.locking import ANSWERS
from ftcli.recipes.outcome import Comparison
from ftcli.recipes.recipe_lock import OF_PIPELINE, THREADS, Lock
from ftcli.runs import rundir
from ftcli.settings.backends import ENDPOINTS
from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.runner import DATA, sha256_of
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

_JOURNALS = (ITEMS, f"agreement/{ITEMS}")
"""What a stage recorded of its answers, and of those on pairs that people labelled."""
_OTHER = "lock a pipeline of this recipe, or print this one's: ftcli recipe save {folder}"


def threads_of(folder: Path, names: list[str]) -> dict[str, int]:
    """The threads of each training stage on a CPU, as settings."""
    runs = [name for name in names if rundir.is_run(folder / name)]
    return {f"stages.{name}.{THREADS}": each for name in runs for each in locking.threads_of(folder / name).values()}


def of_pipeline(recipe: Path, beside: Path, wanted: PipelineRequest, spec: PipelineSpec, folder: Path) -> Lock:
    """The lock of a pipeline's recipe from a finished pipeline of it; what endpoints answered is put beside the recipe.

    Args:
        beside: where the recipe's lock will lie.
        wanted: the recipe's request.
        spec: the same, composed and checked here.

    Raises:
        ConfigError: the pipeline is not finished, or not one of this recipe, its rows were edited by hand, or what it
            read has changed since.
    """
    kept, _ = pipeline_dir.load_request(folder, Request())
    assert kept.earlier is not None
    if problems := [*_other_stages(spec, kept.earlier, folder)]:
        raise ConfigError(*problems)
    models = _models(spec, folder)
    # As the stages of a pipeline are composed when their turn comes.
    again = PipelineRequest(
        request=replace(wanted.request, overrides=()),
        pipeline=spec.pipeline,
        earlier=json.loads(json.dumps(spec.remembered())),
        earlier_where=str(recipe),
        built_in=spec.built_in,
    )
    made: dict[str, RunSpec] = {}
    for each in spec.stages:
        match each:
            case RunStage():
                made[each.name] = gate.opened(folder / each.name)
                problems += _other_run(each, again, models, made[each.name], folder)
            case SynthesisStage():
                problems += _other_rows(each, models, kept.earlier[each.name], folder / each.name)
    machines = [locking.machine_of(folder / name, run) for name, run in made.items()]
    if any(other != machines[0] for other in machines[1:]):
        what = "its stages ran on different devices, or with different packages"
        problems.append(Problem(str(folder), what, f"train it anew: ftcli train {shell_word(f'recipe={recipe}')}"))
    if problems:
        raise ConfigError(*problems)
    settings: dict[str, Any] = dict(threads_of(folder, [*made]))
    for each in spec.stages:
        settings |= {f"stages.{each.name}.{name}": commit for name, commit in _revisions(each)}
    flags = {flag for each in spec.runs().values() for flag in gate.flags_needed(each.spec)}
    flags |= {ENDPOINT} if asks(spec) else set()
    keep_answers(beside, spec, folder)
    return Lock(
        recipe=locking.identity(recipe),
        settings=settings,
        files={name: locking.entry(path) for name, path in sorted(files_of(spec, beside))},
        machine=machines[0],
        grants=locking.grants(recipe, flags),
        outcome=outcome_of(spec, folder),
        schema=OF_PIPELINE,
    )


def _models(spec: PipelineSpec, folder: Path) -> dict[str, str]:
    """The model, run or rows of each stage of a pipeline that is there."""
    return {
        each.name: location(each.source)
        if isinstance(each, ReadyStage)
        else str(folder / each.name / (DATA if isinstance(each, SynthesisStage) else ""))
        for each in spec.stages
    }


def require_same(pipeline: Pipeline, folder: Path) -> None:
    """Check that a folder holds a finished pipeline of a recipe's kind, with its options.

    Raises:
        ConfigError: it does not.
    """
    if rundir.read_result(folder) is None:
        fix = f"finish it with ftcli train --resume {shell_word(folder)}"
        raise ConfigError(Problem(str(folder), "is not finished, so there is nothing to lock", fix))
    kept = pipeline_dir.load_request(folder, Request())[0].pipeline
    fix = _OTHER.format(folder=shell_word(folder))
    if pipeline.name != kept.name:
        what = f"the recipe is one of {pipeline.name}, and this is {kept.name}"
        raise ConfigError(Problem(str(folder), what, fix))
    options = [(name, pipeline.chosen.get(name), kept.chosen.get(name)) for name in sorted(kept.options)]
    if problems := [
        Problem(str(folder), f"method.{name} is {own!r} in the recipe, and was {other!r} here", fix)
        for name, own, other in options
        if own != other and name != MEASURE
    ]:
        raise ConfigError(*problems)


def _other_stages(spec: PipelineSpec, kept: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    """Stages that the recipe trains and the pipeline took as they were, or the other way round."""
    fix = _OTHER.format(folder=shell_word(folder))
    for each in spec.stages:
        reused = bool(kept[each.name].get("ready"))
        if reused and each.stage.task:
            what = f"it reuses the rows of stage {each.name} of another pipeline"
            yield Problem(str(folder), what, "train the recipe as a whole, and lock that")
        elif reused != isinstance(each, ReadyStage):
            done = ("trained", "taken as it was")
            what = f"stage {each.name} is {done[not reused]} by the recipe, and was {done[reused]} here"
            yield Problem(str(folder), what, fix)


def _other_run(
    each: RunStage, again: PipelineRequest, models: Mapping[str, str], made: RunSpec, folder: Path
) -> Iterator[Problem]:
    """How the recipe's stage is not the one that ran, or what it read is not there as it was."""
    place = folder / each.name
    known = run_inputs.recorded(place)
    if known is None:
        yield Problem(str(place), "it began before ftcli recorded what a run reads", "train the pipeline anew")
        return
    own = pipeline_dir.run_spec(each.stage, again, models, folder, "locked")
    yield from locking.other_settings(locking.deciding(own), locking.deciding(made), place)
    yield from locking.other_files(own, known, place)


def _other_rows(
    each: SynthesisStage, models: Mapping[str, str], kept: Mapping[str, Any], place: Path
) -> Iterator[Problem]:
    """How the recipe's synthesis stage is not the one that ran, or its rows are not those that it made."""
    own, made = _with_feeds(each, models), SynthesisSpec.load(place / FILE)
    yield from locking.other_settings(_deciding(own), _deciding(made), place)
    result = rundir.read_result(place)
    if result is None:
        yield Problem(str(place), "is not finished, so there is nothing to lock", "resume the pipeline")
        return
    if kept.get("edited") or sha256_of(place) != result["sha256"]:
        what = "its rows were edited by hand, so no command makes them again"
        yield Problem(str(place / DATA), what, "name them in the recipe, as data.path of the stage that reads them")
    rows = kept.get("rows")
    if rows is not None and list(rows.values()) != list(pipeline_dir.input_fingerprints(own).values()):
        yield Problem(own.rows, f"has changed since stage {each.name} read it", "put it back as it was")


def _with_feeds(each: SynthesisStage, models: Mapping[str, str]) -> SynthesisSpec:
    """The spec of a synthesis stage with the rows and the model that it takes."""
    found, takes = each.spec, each.takes()
    if ROWS_OF_TASK in takes:
        found = replace(found, rows=models[takes[ROWS_OF_TASK]])
    if takes_model(each):
        found = replace(found, backend=replace(found.backend, model=models[takes["backend.model"]]))
    return found


def _deciding(spec: SynthesisSpec) -> dict[str, Any]:
    """The settings that decide the rows, without where files lie."""
    found = {f"make.{name}": value for name, value in spec.settings.items()}
    found |= {f"{spec.role}.{name}": value for name, value in asdict(spec.backend).items() if name != "revision"}
    found |= {"task": spec.task, "seed": spec.seed, "rows": spec.rows, "data.max_rows": spec.max_rows}
    return {name: locking.placeless(value) for name, value in found.items()}


def _revisions(each: RunStage | SynthesisStage | ReadyStage) -> Iterator[tuple[str, str]]:
    """The commits of the models and rows of a stage that come from the hub, as settings of that stage."""
    if isinstance(each, RunStage):
        for name, commit in locking.revisions(each.spec).items():
            if f"{name.partition('.')[0]}." not in {f"{taken.partition('.')[0]}." for taken in each.fed}:
                yield name, commit
    elif isinstance(each, SynthesisStage):
        for name, path in stage_inputs.files_of(each):
            if name.startswith(f"{each.spec.role}.model:") and (commit := locking.commit_of(path)):
                yield f"{each.spec.role}.revision", commit


def files_of(spec: PipelineSpec, recipe: Path) -> Iterator[tuple[str, str]]:
    """What the stages read that no stage makes, by stage, setting and name, and the answers that are kept."""
    for each in spec.stages:
        for name, path in locking.with_files_of_hub(stage_inputs.files_of(each)):
            yield f"stages.{each.name}.{name}", path
    for stage in asks(spec):
        for journal, file in _kept_answers(recipe, stage):
            yield f"stages.{stage}{ANSWERS}:{journal}", str(file)


def asks(spec: PipelineSpec) -> list[str]:
    """The stages that ask an endpoint."""
    tasks = [each for each in spec.stages if isinstance(each, SynthesisStage)]
    found = [each.name for each in tasks if each.spec.backend.type in ENDPOINTS]
    return found + [name for name, run in spec.runs().items() if _judge_type(run.spec) in ENDPOINTS]


def _judge_type(spec: RunSpec) -> str:
    judge = spec.method.get("judge")
    return str(judge.get("type")) if isinstance(judge, Mapping) else ""


def _kept_answers(recipe: Path, stage: str) -> Iterator[tuple[str, Path]]:
    for journal in _JOURNALS:
        if (file := _place_of_answers(recipe, stage, journal)).is_file():
            yield journal, file


def keep_answers(recipe: Path, spec: PipelineSpec, folder: Path) -> None:
    """Copy what endpoints answered to beside the recipe."""
    for stage in asks(spec):
        for journal in _JOURNALS:
            file, target = folder / stage / journal, _place_of_answers(recipe, stage, journal)
            target.unlink(missing_ok=True)
            if file.is_file():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def _place_of_answers(recipe: Path, stage: str, journal: str) -> Path:
    return recipe.with_suffix(ANSWERS) / f"{stage}-{journal.replace('/', '-')}"


@dataclass(frozen=True)
class Answers:
    """What endpoints answered in the locked pipeline, as it is kept beside the recipe."""

    kept: Mapping[str, Mapping[str, Path]]
    """The journals of each stage whose answers are here."""
    free: frozenset[str]
    """The stages whose outcome is another one, since an endpoint is asked anew, by them or before them."""


def answers(recipe: Path, spec: PipelineSpec) -> Answers:
    """The answers beside a recipe, and what is free without those that are missing."""
    kept = {stage: dict(_kept_answers(recipe, stage)) for stage in asks(spec)}
    kept = {stage: journals for stage, journals in kept.items() if ITEMS in journals}
    free = {stage for stage in asks(spec) if stage not in kept}
    return Answers(kept, _followed(spec, free))


def _followed(spec: PipelineSpec, first: set[str]) -> frozenset[str]:
    """Stages, and those that take something from them."""
    found = set(first)
    for each in spec.stages:
        if found.intersection(each.takes().values()):
            found.add(each.name)
    return frozenset(found)


def outcome_of(spec: PipelineSpec, folder: Path) -> dict[str, Any]:
    """What each stage that ran came to.

    Raises:
        ConfigError: one is not finished, or what it wrote is damaged.
    """
    found: dict[str, Any] = {}
    for each in spec.stages:
        place = folder / each.name
        if isinstance(each, RunStage):
            found[each.name] = outcome.of_run(place)
        elif isinstance(each, SynthesisStage):
            result = rundir.read_result(place)
            if result is None:
                fix = f"finish it with ftcli train --resume {shell_word(folder)}"
                raise ConfigError(Problem(str(place), "is not finished, so there is nothing to compare", fix))
            with rundir.stored(place):
                found[each.name] = {**outcome.of_rows(result), "sha256": sha256_of(place)}
    return found


def compared(lock: Lock, spec: PipelineSpec, folder: Path, free: frozenset[str]) -> tuple[bool, list[Comparison]]:
    """Whether all must be the locked one bit for bit, and every stage beside the locked one.

    Args:
        free: the stages in which an endpoint is asked anew, and those after them.
    """
    devices = {run.spec.launch.device for run in spec.runs().values()}
    bits = len(devices) == 1 and locking.same_bits(devices.pop(), lock)
    sampled = _followed(spec, {each.name for each in spec.stages if isinstance(each, SynthesisStage)})
    now, found = outcome_of(spec, folder), list[Comparison]()
    for name in (each.name for each in spec.stages if each.name in lock.outcome):
        locked = lock.outcome[name]
        exact = bits and name not in free
        for each in outcome.compared(locked, now.get(name, {}), exact=exact, sampled=name in sampled | free):
            found.append(replace(each, what=f"{name}.{each.what}"))
    return bits and not free, found
