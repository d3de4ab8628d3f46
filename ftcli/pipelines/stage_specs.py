"""A request for a pipeline → one checked spec per stage, before any stage runs.

A stage is composed like any run: settings without a stage apply to all, `stages.NAME.…` to one. For a model that an
earlier stage has yet to train, the model from which that stage starts is used as a placeholder; when the stage is about
to run, it is composed again with the trained model.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftcli.build import derive
from ftcli.build.resolve import build
from ftcli.config.compose import Composed, Request, StageRequest, compose
from ftcli.config.group_fields import method_fields
from ftcli.core import assets, paths
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.methods import Pipeline, get_method
from ftcli.methods.pipeline import Stage
from ftcli.models import sources
from ftcli.pipelines import synthesis_stage
from ftcli.pipelines.one_job import job_problems
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.role_settings import unread_settings
from ftcli.pipelines.stages import (
    MODEL,
    ROWS,
    STAND_IN,
    PipelineSpec,
    ReadyStage,
    RunStage,
    StageSpec,
    SynthesisStage,
    location,
)
from ftcli.pipelines.synthesis_stage import JUDGE
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.backends import OWN_WEIGHTS, ROLES
from ftcli.settings.groups import GROUPS, RunSettings
from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.run_spec import Notes, RunSpec

Draft = Composed | SynthesisStage | ReadyStage
"""A stage that has no folder yet; a run is built once it has one."""
_NAMED = re.compile(rf"did you mean (?=(?:{'|'.join((*GROUPS, *ROLES, 'make'))})[.=])|^(?=(?:{'|'.join(GROUPS)})\.\w)")
"""What stands before the setting that a remedy names."""
Faults = dict[Problem, list[str]]
"""Each problem with the stages in which it was found."""


def pipeline_spec(wanted: PipelineRequest) -> PipelineSpec:
    """Every stage, composed and checked.

    Raises:
        ConfigError: all problems of all stages, each once.
    """
    if problems := [*_form_problems(wanted)]:
        raise ConfigError(*problems)
    drafts = _drafts(wanted)
    name, folder = _place(wanted, drafts)
    found, faults = list[StageSpec](), Faults()
    for stage in wanted.pipeline.stages:
        match drafts[stage.name]:
            case Composed() as composed:
                with _collected(faults, stage):
                    fed = tuple(_fed(stage, wanted))
                    run = stage_run(stage, wanted, in_folder(composed, folder, name))
                    found.append(RunStage(stage=stage, run=run, fed=fed))
            case SynthesisStage() as synthesis:
                found.append(synthesis.placed(folder))
            case ReadyStage() as ready:
                found.append(ready)
    runs = {each.name: each.spec for each in found if isinstance(each, RunStage)}
    if problems := [*_deduplicated(faults, wanted.pipeline), *_unmergeable(found), *job_problems(runs)]:
        raise ConfigError(*problems)
    built_in = wanted.built_in or any(map(_is_tiny, drafts.values()))
    return PipelineSpec(
        pipeline=wanted.pipeline,
        name=name,
        dir=folder,
        stages=tuple(found),
        built_in=built_in,
        rounds=tuple(wanted.rounds()),
    )


def stage_run(stage: Stage, wanted: PipelineRequest, composed: Composed) -> ResolvedRun:
    """The checked run of a stage, with the warm-up of the pipeline's record where it has one.

    Raises:
        ConfigError: every problem at once.
    """
    run, kept = build(composed), (wanted.earlier or {}).get(stage.name, {})
    if "tree" not in kept:
        return run
    return replace(run, spec=replace(run.spec, warmup_from_zero=bool(kept.get("warmup_from_zero", True))))


def _drafts(wanted: PipelineRequest) -> dict[str, Draft]:
    """Every stage, with placeholders for the models and rows of the stages before it.

    Raises:
        ConfigError: all problems with the values of any stage.
    """
    found: dict[str, Draft] = {}
    problems, faults = list[Problem](), Faults()
    ready = _ready_models(wanted)
    for stage in wanted.pipeline.stages:
        if stage.name in ready:
            source, where = ready[stage.name]
            problems += _ready_problems(stage, source, where, wanted)
            found[stage.name] = ReadyStage(stage=stage, source=source)
            continue
        with _collected(faults, stage):
            if stage.task:
                for_tiny = any(map(_is_tiny, found.values()))
                feeds = {setting: _stand_in(found.get(source), source) for setting, source in stage.takes.items()}
                spec = synthesis_stage.synthesis_spec(stage, wanted, feeds, Path(), for_tiny=for_tiny)
                found[stage.name] = SynthesisStage(stage=stage, spec=spec, fed=tuple(stage.takes))
            else:
                found[stage.name] = compose(_planned(stage, wanted, found))
    if faults or problems:
        raise ConfigError(*problems, *_deduplicated(faults, wanted.pipeline))
    return found


@contextlib.contextmanager
def _collected(faults: Faults, stage: Stage) -> Iterator[None]:
    """Collect the problems of a stage, so that the other stages are checked too."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            faults.setdefault(problem, []).append(stage.name)


def _deduplicated(faults: Mapping[Problem, list[str]], pipeline: Pipeline) -> Iterator[Problem]:
    """Each problem once, with the stages in which it was found unless those are all."""
    for problem, stages in faults.items():
        [*own] = (name for name in stages if problem.where.startswith(f"stages.{name}."))
        if own:
            yield replace(problem, fix=_NAMED.sub(rf"\g<0>stages.{own[0]}.", problem.fix))
        elif len(stages) == len(pipeline.stages):
            yield problem
        else:
            yield replace(problem, where=f"{problem.where} (stage {', '.join(stages)})")


def _form_problems(wanted: PipelineRequest) -> Iterator[Problem]:
    """Stages that do not exist, and method options that belong to a single stage."""
    names = [stage.name for stage in wanted.pipeline.stages]
    for override in wanted.typed():
        if override.key[0] == "stages" and (len(override.key) < 3 or override.key[1] not in names):
            yield Problem(override.text, "does not name a stage", suggest("".join(override.key[1:2]), names, "stages."))
        elif override.key[0] == "method" and len(override.key) > 1 and override.key[1] not in wanted.pipeline.options:
            yield _of_one_stage(override.text, override.key[1], wanted.pipeline)
    yield from unread_settings(wanted)
    recipe = wanted.recipe
    for name in recipe.stages if recipe else ():
        if name not in names:
            assert recipe is not None
            yield Problem(recipe.where(("stages", name)), f"{name} is not a stage", suggest(name, names, ""))
    written = recipe.values.get("method") if recipe else None
    for option in written if isinstance(written, dict) else ():
        if option in wanted.pipeline.options:
            continue
        assert recipe is not None
        yield _of_one_stage(recipe.where(("method", option)), option, wanted.pipeline)


def _of_one_stage(where: str, option: str, pipeline: Pipeline) -> Problem:
    runs = [stage for stage in pipeline.stages if stage.method]
    owners = [stage.name for stage in runs if option in method_fields(get_method(stage.method))]
    fix = f"set stages.{owners[0] if len(owners) == 1 else 'NAME'}.method.{option}"
    return Problem(where, f"method.{option} has to be set for a single stage of {pipeline.name}", fix)


def _ready_models(wanted: PipelineRequest) -> dict[str, tuple[str, str]]:
    """Stages for which a finished model or rows are reused: what is reused, and where that is written."""
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


def _ready_problems(stage: Stage, name: str, where: str, wanted: PipelineRequest) -> Iterator[Problem]:
    """Problems of a reused model: it is missing or of the wrong type, or the stage has settings as well."""
    if stage.task:
        if where != wanted.earlier_where:  # whose rows are reused
            fix = "edit its data.jsonl, or leave this out"
            yield Problem(where, f"stage {stage.name} is a synthesis stage and trains no model", fix)
        return
    source, head = sources.model_source(name), get_method(stage.method).head
    if source is not None and source.hub_id in assets.choices("model"):
        what = f"{name} is a choice of model=, but stages.{stage.name}.model names a finished model to reuse"
        fix = f"to train stage {stage.name} from it, set stages.{stage.name}.model.name_or_path"
        yield Problem(where, what, fix)
    elif source is None or not source.is_plausible:
        yield Problem(where, f"{name} holds no model", "name a finished run, a model folder or a hub id")
    elif source.folder is not None and sources.head_of(source.folder) != head:
        kinds = ("a causal LM", "a reward model")
        given, needed = kinds if head == "reward_model" else kinds[::-1]
        yield Problem(where, f"{name} is {given}, not {needed}", f"stage {stage.name} trains {needed}: name one")
    for override in wanted.own(stage.name):
        if override.key[2:] != ("model",):
            what = f"stage {stage.name} does not run, because {name} is reused for it"
            yield Problem(override.text, what, f"leave it out, or {where}")


def _fed(stage: Stage, wanted: PipelineRequest) -> list[str]:
    """The settings that a stage takes from other stages: all but those that the user has set for this stage."""
    earlier = (wanted.earlier or {}).get(stage.name, {})
    part = wanted.recipe.stages.get(stage.name) if wanted.recipe else None
    own = {".".join(each.key[2:]) for each in wanted.own(stage.name)}
    groups = {group: values for group, values in (part.values if part else {}).items() if isinstance(values, Mapping)}
    own |= {f"{group}.{key}" for group, values in groups.items() for key in values}
    own |= {MODEL} if part is not None and "model" in part.choices else set()
    if any(name.startswith(f"{JUDGE}.") for name in own) or (stage.method and _names_judge(stage, wanted)):
        own.add(JUDGE)
    fed_before = set(earlier.get("fed", stage.takes))
    if stage.role in own or any(each.key == (stage.role,) for each in wanted.typed()):
        fed_before.add(JUDGE)  # a different judge is chosen now
    return [name for name in stage.takes if name not in own and name in fed_before]


def _names_judge(stage: Stage, wanted: PipelineRequest) -> bool:
    """Whether `judge=` and its options name a judge other than the pipeline's own model."""
    judge = synthesis_stage.judge_of(stage, wanted) if JUDGE in stage.takes else {}
    return bool(judge.get("model")) or judge.get("type", "local") not in OWN_WEIGHTS


def _planned(stage: Stage, wanted: PipelineRequest, before: Mapping[str, Draft]) -> Request:
    """The request for a stage, with placeholders for models that have yet to be trained."""
    feeds: dict[str, Any] = {}
    promised = set()
    if JUDGE in stage.takes and _names_judge(stage, wanted):
        feeds[JUDGE] = synthesis_stage.judge_of(stage, wanted)
    for name in _fed(stage, wanted):
        match before.get(stage.takes[name]):
            case ReadyStage(source=source):
                feeds[name] = fed_by(stage, wanted, name, location(source))
            case _ if name == ROWS:  # whatever rows come, they are of the method's dataset type
                feeds[name] = paths.BUILTIN
                promised.add(name)
            case Composed(tree=tree):
                feeds[name] = fed_by(stage, wanted, name, str(tree["model"]["name_or_path"]))
                promised.add(name)
    return stage_request(stage, wanted, feeds, frozenset(promised))


def fed_by(stage: Stage, wanted: PipelineRequest, name: str, model: str) -> Any:
    """The value of a setting that takes another stage's model: its name; for a judge its other settings too."""
    if name != JUDGE:
        return model
    return {**synthesis_stage.judge_of(stage, wanted), "model": model}


def _is_tiny(draft: Draft) -> bool:
    """Whether a stage trains the built-in model on built-in rows."""
    if not isinstance(draft, Composed):
        return False
    tree = draft.tree
    return bool(tree["model"]["name_or_path"] == paths.BUILTIN and paths.is_builtin(tree["data"].get("path")))


def _stand_in(draft: Draft | None, name: str) -> str:
    """What a synthesis stage takes from another: what is reused, or a placeholder with the name of that stage."""
    return draft.source if isinstance(draft, ReadyStage) else f"{STAND_IN}{name}"


def stage_request(
    stage: Stage, wanted: PipelineRequest, feeds: Mapping[str, Any], promised: frozenset[str] = frozenset()
) -> Request:
    """The request for one stage, with the models that it takes."""
    own = StageRequest(
        name=stage.name,
        method=stage.method,
        feeds=feeds,
        promised=promised,
        built_in=wanted.pipeline.built_in(stage),
        like="" if wanted.earlier is not None else stage.like,  # whose stages have all their settings
        held_back=stage.held_back,
    )
    grants = wanted.request.grants
    if JUDGE in feeds and JUDGE not in _fed(stage, wanted):
        grants |= {ENDPOINT}  # the judge was typed, or granted
    request = replace(wanted.request, stage=own, grants=grants)
    if wanted.earlier is not None and "tree" in wanted.earlier.get(stage.name, {}):
        kept = wanted.earlier[stage.name]
        # An entry without `resolved` is of a version whose critics had the policy's rate; its tree has the rest.
        resolved = kept.get("resolved", {"method": {"name": stage.method}})
        request = replace(
            request, base=kept["tree"], base_choices=kept["choices"], base_where=wanted.earlier_where,
            base_resolved=resolved,
        )  # fmt: skip
    return request


def _place(wanted: PipelineRequest, drafts: Mapping[str, Draft]) -> tuple[str, Path]:
    """Name and directory of the pipeline: `run.name` and `run.dir`, or derived as for a run."""
    first = next((draft for draft in drafts.values() if isinstance(draft, Composed)), None)
    if first is None:
        what = "every stage reuses a model, so there is nothing to run"
        raise ConfigError(Problem(f"method={wanted.pipeline.name}", what, "leave at least one stage to be trained"))
    given = RunSettings(name=first.tree["run"].get("name"), dir=first.tree["run"].get("dir"))
    model = str(first.tree["model"]["name_or_path"])  # of another type it is reported with the stage's other problems
    settled = derive.derive_run(given, wanted.pipeline.name, first.choices["model"], model, False, Notes())
    return str(settled.name), Path(str(settled.dir))


def in_folder(composed: Composed, folder: Path, name: str) -> Composed:
    """The stage as a run whose folder is inside the pipeline's."""
    assert composed.request.stage is not None
    stage = composed.request.stage.name
    run = {**composed.tree["run"], "dir": str(folder / stage), "name": f"{name}-{stage}"}
    return replace(composed, tree={**composed.tree, "run": run})


def _unmergeable(stages: Sequence[StageSpec]) -> Iterator[Problem]:
    """Problems of stages that would have to merge an adapter which cannot be merged."""
    before: dict[str, StageSpec] = {}
    for each in stages:
        below = before.get(each.takes().get(MODEL, ""))
        before[each.name] = each
        if not isinstance(below, RunStage):
            continue
        peft = below.run.peft
        if peft is not None and peft.adapter and peft.never_merges:
            what = f"stage {each.name} would have to merge it: {peft.never_merges}"
            fix = "choose another peft= for that stage, for example peft=lora"
            yield Problem(f"stages.{below.name}.peft={peft.name}", what, fix)


def settled(spec: RunSpec) -> dict[str, Any]:
    """The part of a spec that determines the result of a run: all but its place and the notes on derived values."""
    placeless = replace(spec, run=replace(spec.run, dir=None, name=None), grants=())
    # Whichever kernel is the fastest, it computes the same.
    return asdict(replace(placeless, notes=(), tree={}, attention_candidates=()))
