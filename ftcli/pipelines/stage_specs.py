"""What was asked of a pipeline → one checked run spec a stage, before anything of it has run.

A stage is composed like any run: settings without a stage hold for all, `stages.NAME.…` for one. A model that another
stage is yet to make is stood in for by the model which that stage starts from; when the stage's turn comes, it is
composed once more on the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ftcli.build import derive
from ftcli.build.checks.field_checks import method_fields
from ftcli.build.resolve import build
from ftcli.config.compose import Composed, Request, StageRequest, compose
from ftcli.core import assets, paths
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.methods import Pipeline, get_method
from ftcli.methods.pipeline import Stage
from ftcli.models import sources
from ftcli.peft_methods import peft_method
from ftcli.pipelines import synthesis_stage
from ftcli.pipelines.pipeline_request import Asked
from ftcli.pipelines.synthesis_stage import JUDGE
from ftcli.settings.backends import OWN_WEIGHTS
from ftcli.settings.groups import RunSettings
from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.run_spec import Notes, RunSpec
from ftcli.synthesis.synthesis_spec import MakeSpec

ROWS = "data.path"
"""The setting of a run that takes the rows which another stage made."""
ROWS_OF_TASK = "rows"
"""The same of a data-making stage."""


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage as asked for: a run, or a model that stands in its place."""

    stage: Stage
    spec: RunSpec | None
    """The run; None where `ready` stands in its place."""
    ready: str | None = None
    """The model or run that stands in its place."""
    make: MakeSpec | None = None
    """What it makes, where it is no run but makes data."""
    fed: tuple[str, ...] = ()
    """Settings whose model comes from another stage."""


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline as asked for, checked stage by stage."""

    pipeline: Pipeline
    name: str
    dir: Path
    stages: tuple[StageSpec, ...]
    built_in: bool = False
    """Whether it begins with the built-in model and rows, whose policies can be measured by rules."""


def pipeline_spec(wanted: Asked) -> PipelineSpec:
    """Every stage, composed and checked.

    Raises:
        ConfigError: everything that is wrong with any stage, at once, each fault once.
    """
    problems = [*_form_problems(wanted)]
    if problems:
        raise ConfigError(*problems)
    found: dict[str, StageSpec] = {}
    composed: dict[str, Composed] = {}
    makes: dict[str, MakeSpec] = {}
    for_tiny = False
    faults: dict[Problem, list[str]] = {}
    ready = _ready_models(wanted)
    for stage in wanted.pipeline.stages:
        if stage.name in ready:
            problems += _ready_problems(stage, *ready[stage.name], wanted)
            continue
        try:
            if stage.task:
                makes[stage.name] = synthesis_stage.make_spec(
                    stage, wanted, _stand_ins(stage, ready), Path(), for_tiny=for_tiny
                )
                continue
            composed[stage.name] = compose(_planned(stage, wanted, ready, composed))
            for_tiny = for_tiny or _is_tiny(composed[stage.name])
        except ConfigError as error:
            for problem in error.problems:
                faults.setdefault(problem, []).append(stage.name)
    if faults or problems:
        raise ConfigError(*problems, *_told_once(faults, wanted.pipeline))
    name, folder = _place(wanted, composed)
    for stage in wanted.pipeline.stages:
        if stage.name in ready:
            found[stage.name] = StageSpec(stage=stage, spec=None, ready=ready[stage.name][0])
            continue
        if stage.name in makes:
            made = replace(makes[stage.name], dir=str(folder / stage.name))
            found[stage.name] = StageSpec(stage=stage, spec=None, make=made, fed=tuple(stage.takes))
            continue
        one = in_folder(composed[stage.name], folder, name)
        try:
            fed = tuple(_fed(stage, wanted))
            found[stage.name] = StageSpec(stage=stage, spec=build(one).spec, fed=fed)
        except ConfigError as error:
            for problem in error.problems:
                faults.setdefault(problem, []).append(stage.name)
    problems = [*_told_once(faults, wanted.pipeline), *_unmergeable(found)]
    if problems:
        raise ConfigError(*problems)
    built_in = for_tiny or wanted.built_in
    return PipelineSpec(
        pipeline=wanted.pipeline, name=name, dir=folder, stages=tuple(found.values()), built_in=built_in
    )


def _told_once(faults: Mapping[Problem, list[str]], pipeline: Pipeline) -> Iterator[Problem]:
    """Each fault with the stages that it is found in, where those are not all."""
    for problem, stages in faults.items():
        [*own] = (name for name in stages if problem.where.startswith(f"stages.{name}."))
        if own:
            yield replace(problem, fix=problem.fix.replace("did you mean ", f"did you mean stages.{own[0]}."))
        elif len(stages) == len(pipeline.stages):
            yield problem
        else:
            yield replace(problem, where=f"{problem.where} (stage {', '.join(stages)})")


def _form_problems(wanted: Asked) -> Iterator[Problem]:
    """Stages that do not exist, and settings that only a stage can have."""
    names = [stage.name for stage in wanted.pipeline.stages]
    for override in wanted.typed():
        if override.key[0] == "stages" and (len(override.key) < 3 or override.key[1] not in names):
            yield Problem(override.text, "names no stage", suggest("".join(override.key[1:2]), names, "stages."))
        elif override.key[0] == "method" and len(override.key) > 1 and override.key[1] not in wanted.pipeline.options:
            yield _of_one_stage(override.text, override.key[1], wanted.pipeline)
    recipe = wanted.recipe
    for name in recipe.stages if recipe else ():
        if name not in names:
            assert recipe is not None
            yield Problem(recipe.where(("stages", name)), f"{name} is not a stage", suggest(name, names, ""))
    knobs = recipe.values.get("method") if recipe else None
    for knob in knobs if isinstance(knobs, dict) else ():
        if knob in wanted.pipeline.options:
            continue
        assert recipe is not None
        yield _of_one_stage(recipe.where(("method", knob)), knob, wanted.pipeline)


def _of_one_stage(where: str, knob: str, pipeline: Pipeline) -> Problem:
    runs = [stage for stage in pipeline.stages if stage.method]
    owners = [stage.name for stage in runs if knob in method_fields(get_method(stage.method))]
    fix = f"set stages.{owners[0] if len(owners) == 1 else 'NAME'}.method.{knob}"
    return Problem(where, f"method.{knob} belongs to one stage of {pipeline.name}", fix)


def _ready_models(wanted: Asked) -> dict[str, tuple[str, str]]:
    """Stages in whose place a model stands, with what names it."""
    found: dict[str, tuple[str, str]] = {}
    for stage in wanted.pipeline.stages:
        earlier = (wanted.earlier or {}).get(stage.name, {})
        if earlier.get("ready"):
            found[stage.name] = (str(earlier["ready"]), wanted.earlier_where)
        part = wanted.recipe.stages.get(stage.name) if wanted.recipe else None
        if part is not None and part.ready is not None:
            found[stage.name] = (part.ready, part.where(("model",)))
        for override in wanted.own(stage.name):
            if override.key[2:] == ("model",) and override.value is not None:
                found[stage.name] = (str(override.value), override.text)
    return found


def _ready_problems(stage: Stage, name: str, where: str, wanted: Asked) -> Iterator[Problem]:
    """That the model in a stage's place is none, or puts out the wrong thing, or that the stage is set beside it."""
    if stage.task:
        if where != wanted.earlier_where:  # whose rows are taken over
            fix = "edit its data.jsonl, or leave this out"
            yield Problem(where, f"stage {stage.name} makes data, and no model", fix)
        return
    source, head = sources.model_source(name), get_method(stage.method).head
    if source is not None and source.hub_id in assets.choices("model"):
        what = f"{name} is a choice of model=, and what stands in a stage's place is ready-made"
        fix = f"to train stage {stage.name} from it, set stages.{stage.name}.model.name_or_path"
        yield Problem(where, what, fix)
    elif source is None or not source.is_plausible:
        yield Problem(where, f"{name} holds no model", "name a finished run, a model folder or a hub id")
    elif source.folder is not None and sources.head_of(source.folder) != head:
        gives, needs = ("words", "a score") if head == "reward_model" else ("a score", "words")
        yield Problem(where, f"{name} puts out {gives}, and stage {stage.name} makes {needs}", "name another model")
    for override in wanted.own(stage.name):
        if override.key[2:] != ("model",):
            what = f"stage {stage.name} does not run, since {name} stands in its place"
            yield Problem(override.text, what, f"leave it out, or {where}")


def _fed(stage: Stage, wanted: Asked) -> list[str]:
    """The settings of a stage that take another stage's model: all but those which the user set for this stage."""
    earlier = (wanted.earlier or {}).get(stage.name, {})
    part = wanted.recipe.stages.get(stage.name) if wanted.recipe else None
    own = {".".join(each.key[2:]) for each in wanted.own(stage.name)}
    own |= {f"{group}.{key}" for group, values in (part.values if part else {}).items() for key in values}
    own |= {"model.name_or_path"} if part is not None and "model" in part.choices else set()
    if any(name.startswith(f"{JUDGE}.") for name in own) or (stage.method and _names_judge(stage, wanted)):
        own.add(JUDGE)
    fed_before = set(earlier.get("fed", stage.takes))
    if stage.role in own or any(each.key == (stage.role,) for each in wanted.typed()):
        fed_before.add(JUDGE)  # another one is chosen now
    return [name for name in stage.takes if name not in own and name in fed_before]


def _names_judge(stage: Stage, wanted: Asked) -> bool:
    """Whether `judge=` and what belongs to it name somebody else than the pipeline's own model."""
    judge = synthesis_stage.judge_of(stage, wanted) if JUDGE in stage.takes else {}
    return bool(judge.get("model")) or judge.get("type", "local") not in OWN_WEIGHTS


def _planned(
    stage: Stage, wanted: Asked, ready: Mapping[str, tuple[str, str]], before: Mapping[str, Composed]
) -> Request:
    """The request for a stage, with stand-ins for models that are still to be made."""
    feeds: dict[str, Any] = {}
    promised = set()
    if JUDGE in stage.takes and _names_judge(stage, wanted):
        feeds[JUDGE] = synthesis_stage.judge_of(stage, wanted)
    for name in _fed(stage, wanted):
        source = stage.takes[name]
        if source in ready:
            feeds[name] = fed_by(stage, wanted, name, _resolved(ready[source][0]))
        elif name == ROWS:  # whatever they will be, they are rows of the method's kind
            feeds[name] = paths.BUILTIN
            promised.add(name)
        elif source in before:
            feeds[name] = fed_by(stage, wanted, name, str(before[source].tree["model"]["name_or_path"]))
            promised.add(name)
    return stage_request(stage, wanted, feeds, frozenset(promised))


def fed_by(stage: Stage, wanted: Asked, name: str, model: str) -> Any:
    """The value of a setting that takes another stage's model: its name, or of a judge how it is asked too."""
    if name != JUDGE:
        return model
    return {**synthesis_stage.judge_of(stage, wanted), "model": model}


def _is_tiny(composed: Composed) -> bool:
    """Whether a stage trains the built-in model on built-in rows."""
    tree = composed.tree
    return bool(tree["model"]["name_or_path"] == paths.BUILTIN and paths.is_builtin(tree["data"].get("path")))


def _stand_ins(stage: Stage, ready: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """What a data-making stage takes, by the name of the stage that is to make it."""
    return {name: ready[source][0] if source in ready else f"stage {source}" for name, source in stage.takes.items()}


def stage_request(
    stage: Stage, wanted: Asked, feeds: Mapping[str, Any], promised: frozenset[str] = frozenset()
) -> Request:
    """What is asked of one stage, on the models that it is given."""
    own = StageRequest(
        name=stage.name, method=stage.method, feeds=feeds, promised=promised, built_in=wanted.pipeline.built_in(stage)
    )
    grants = wanted.request.grants
    if JUDGE in feeds and JUDGE not in _fed(stage, wanted):
        grants |= {ENDPOINT}  # whoever it is was typed, or granted
    request = replace(wanted.request, stage=own, grants=grants)
    if wanted.earlier is not None and "tree" in wanted.earlier.get(stage.name, {}):
        kept = wanted.earlier[stage.name]
        request = replace(request, base=kept["tree"], base_choices=kept["choices"], base_where=wanted.earlier_where)
    return request


def _resolved(name: str) -> str:
    """The folder of a run's or a local model, so that it means the same tomorrow; a hub id as it is."""
    source = sources.model_source(name)
    return source.location if source is not None else name


def _place(wanted: Asked, composed: Mapping[str, Composed]) -> tuple[str, Path]:
    """Name and directory of the pipeline: what `run.name` and `run.dir` say, or derived as for a run."""
    first = next(iter(composed.values()), None)
    if first is None:
        what = "every stage has a model in its place, so there is nothing to run"
        raise ConfigError(Problem(f"method={wanted.pipeline.name}", what, "leave one of them to be trained"))
    said = RunSettings(name=first.tree["run"].get("name"), dir=first.tree["run"].get("dir"))
    model = first.tree["model"]["name_or_path"]
    settled = derive.derive_run(said, wanted.pipeline.name, first.choices["model"], model, False, Notes())
    return str(settled.name), Path(str(settled.dir))


def in_folder(composed: Composed, folder: Path, name: str) -> Composed:
    """The stage as a run of its own folder inside the pipeline's."""
    assert composed.request.stage is not None
    stage = composed.request.stage.name
    run = {**composed.tree["run"], "dir": str(folder / stage), "name": f"{name}-{stage}"}
    return replace(composed, tree={**composed.tree, "run": run})


def _unmergeable(found: Mapping[str, StageSpec]) -> Iterator[Problem]:
    """That a later stage would have to merge an adapter which cannot be merged."""
    for each in found.values():
        for name in each.fed:
            below = found.get(each.stage.takes[name])
            peft = peft_method(below.spec.peft) if below is not None and below.spec is not None else None
            if name == "model.name_or_path" and peft is not None and peft.adapter and peft.never_merges:
                assert below is not None
                what = f"stage {each.stage.name} would have to merge it: {peft.never_merges}"
                fix = "choose another peft= for that stage, as peft=lora"
                yield Problem(f"stages.{below.stage.name}.peft={peft.name}", what, fix)


def remembered(spec: PipelineSpec) -> dict[str, Any]:
    """What a pipeline's file keeps of each stage, from which it is composed again."""
    return {each.stage.name: _remembered(each) for each in spec.stages}


def _remembered(each: StageSpec) -> dict[str, Any]:
    if each.make is not None:
        own_model = each.make.backend.model if not str(each.make.backend.model).startswith("stage ") else None
        made = replace(each.make, backend=replace(each.make.backend, model=own_model))
        kept = synthesis_stage.remembered(made)
        if ROWS_OF_TASK not in each.fed:
            kept["values"]["data.path"] = made.rows
        return {"make": kept, "fed": list(each.fed)}
    if each.spec is None:
        return {"ready": _resolved(str(each.ready))}
    return {"choices": dict(each.spec.choices), "tree": _plain(each.spec.tree), "fed": list(each.fed)}


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without where this run was to be written, which is the pipeline's business."""
    return {**tree, "run": {**tree["run"], "dir": None, "name": None}}


def settled(spec: RunSpec) -> dict[str, Any]:
    """What of a spec decides what comes out of the run: all but its place and the notes on how it came about."""
    return asdict(replace(spec, run=replace(spec.run, dir=None, name=None), notes=(), tree={}, grants=()))
