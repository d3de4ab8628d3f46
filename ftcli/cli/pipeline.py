"""What the commands print and do where `method=` names a pipeline: the same as for a run, stage by stage."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ftcli.cli import arguments, made, output
from ftcli.config.compose import Request
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem
from ftcli.pipelines import pipeline_dir
from ftcli.pipelines.pipeline_dir import Begun
from ftcli.pipelines.pipeline_request import asked
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import MODEL, ROWS, PipelineSpec, ReadyStage, RunStage, StageSpec, SynthesisStage
from ftcli.runs import rundir
from ftcli.settings.ownership import ENDPOINT
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.synthesis_spec import MakeSpec

if TYPE_CHECKING:
    from ftcli.plan.outlook import Plan


def composed(options: argparse.Namespace) -> PipelineSpec | None:
    """The pipeline that parsed options ask for, checked; None where they ask for a run.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    wanted = asked(arguments.request(options))
    return pipeline_spec(wanted) if wanted is not None else None


def check(options: argparse.Namespace) -> bool:
    """`ftcli check` of a pipeline; False where it is none."""
    spec = composed(options)
    if spec is None:
        return False
    if options.json:
        choices = {name: dict(run.choices) for name, run in spec.runs().items()}
        output.data({"problems": [], "pipeline": spec.pipeline.name, "choices": choices})
    else:
        print(f"no problems: method={spec.pipeline.name}, {_graph(spec)}")
    return True


def show(options: argparse.Namespace) -> bool:
    """`ftcli show` of a pipeline, stage by stage; False where it is none."""
    from ftcli.cli.show import as_data, configuration

    spec = composed(options)
    if spec is None:
        return False
    if options.json:
        stages = {
            each.name: as_data(each.spec) if isinstance(each, RunStage) else _without_run(each) for each in spec.stages
        }
        output.data({"pipeline": spec.pipeline.name, "stages": stages})
        return True
    for each in spec.stages:
        print(f"# stage {each.name}")
        match each:
            case RunStage():
                configuration(each.spec, as_json=False)
            case SynthesisStage():
                print(each.spec.to_json(), end="")
            case ReadyStage():
                print(f"# {each.source} stands in its place")
    return True


def plan(options: argparse.Namespace) -> bool:
    """`ftcli plan` of a pipeline: its graph, and the plan of every stage; False where it is none."""
    spec = composed(options)
    if spec is not None:
        _show_plan(spec, as_json=options.json)
    return spec is not None


def _show_plan(spec: PipelineSpec, *, as_json: bool, begun: Begun = MappingProxyType({})) -> None:
    from ftcli.cli.plan import as_data, derived, left
    from ftcli.plan.outlook import plan as plan_run

    outlooks = {name: (run, plan_run(run)) for name, run in spec.runs().items()}
    if as_json:
        stages = [
            {"stage": each.name, "takes": each.takes(), **as_data(*outlooks[each.name])}
            if isinstance(each, RunStage)
            else {"stage": each.name, "takes": each.takes(), **_without_run(each)}
            for each in spec.stages
        ]
        for stage in stages:
            if stage["stage"] in begun:
                stage["resume"] = left(outlooks[stage["stage"]][1], begun[stage["stage"]][1])
        output.data({"pipeline": spec.pipeline.name, "dir": str(spec.dir), "stages": stages})
        return
    print(f"{spec.pipeline.name}: {_graph(spec)}")
    first, *others = [outlook.notes for _, outlook in outlooks.values()] or [()]
    shared = [note for note in first if others and all(note in notes for notes in others)]
    for each in spec.stages:
        print()
        match each:
            case RunStage():
                _show_run(each, outlooks[each.name][1], shared, begun)
            case SynthesisStage():
                print(f"stage {each.name}: {each.stage.summary}")
                output.table([*_made(each.spec), *_items_made(spec.dir / each.name)])
            case ReadyStage():
                print(f"stage {each.name}: {each.source} stands in its place")
    if shared:
        print("\nin every stage")
        derived(shared)
    total = sum(outlook.steps for _, outlook in outlooks.values())
    compute = [outlook.flops for _, outlook in outlooks.values()]
    cost = f", about {sum(filter(None, compute)):.1e} FLOP in training" if None not in compute else ""
    print(f"\nin all {total} steps{cost}, in {spec.dir}")


def _show_run(each: RunStage, outlook: Plan, shared: list[Mapping[str, Any]], begun: Begun) -> None:
    from ftcli.cli.plan import details, resumed, rows_of

    print(f"stage {each.name}: {each.stage.summary}")
    if each.name in begun:
        print(f"  {resumed(outlook, begun[each.name][1])}")
    takes = each.takes()
    start = f"the model of stage {takes[MODEL]}" if MODEL in takes else outlook.model
    made_by = takes.get(ROWS)
    rows = f"the rows of stage {made_by}" if made_by else rows_of(each.spec)
    print(f"  {each.spec.choices['method']} of {start} on {rows}, peft={each.spec.peft['name']}")
    if made_by and each.name not in begun:
        print(f"  steps and tokens are those of the built-in rows, until stage {made_by} has made its own")
    details(outlook, shared)
    _built_in(each)


def _without_run(each: SynthesisStage | ReadyStage) -> dict[str, Any]:
    """A stage that trains nothing, as data."""
    return {"make": dataclasses.asdict(each.spec)} if isinstance(each, SynthesisStage) else {"ready": each.source}


def _made(spec: MakeSpec) -> list[tuple[str, str]]:
    """What a data-making stage does, and who answers."""
    backend = spec.backend
    who = f"{spec.role}={spec.choices[spec.role]}, {backend.model or 'no model'}"
    limits = [f"at most {backend.max_requests} requests"] if backend.max_requests else []
    limits += [f"at most {backend.max_tokens} tokens"] if backend.max_tokens else []
    settings = ", ".join(f"{name}={value}" for name, value in spec.settings.items())
    rows = [("task", spec.task), ("rows", f"of {spec.rows}"), ("asks", ", ".join([who, *limits]))]
    return [*rows, *([("settings", settings)] if settings else [])]


def _items_made(place: Path) -> list[tuple[str, str]]:
    """How far a data-making stage has come, where it has begun."""
    journal = place / ITEMS
    return [("finished", f"{len(journal.read_bytes().splitlines())} items")] if journal.is_file() else []


def _built_in(each: RunStage) -> None:
    """What a stage sets so that the built-in model learns in minutes."""
    tree, rows = each.spec.tree, []
    for name, value in each.stage.tiny.items():
        group, _, key = name.partition(".")
        if each.spec.choices["model"] == "tiny" and _holds(tree[group].get(key), value):
            rows.append((name, str(value)))
    if rows:
        print("for the built-in model")
        output.table(rows)


def _holds(value: Any, wanted: Any) -> bool:
    """Whether a setting is what was wanted; a mix may have got more sets."""
    if isinstance(value, dict) and isinstance(wanted, dict):
        return wanted.keys() <= value.keys()
    return bool(value == wanted)


def _graph(spec: PipelineSpec) -> str:
    """Every stage with the stages that it takes models from: sft, reward (of sft), ppo (of sft, reward)."""
    words = []
    for each in spec.stages:
        sources = dict.fromkeys(each.takes().values())
        made_of = f" (of {', '.join(sources)})" if sources else " (ready)" if isinstance(each, ReadyStage) else ""
        words.append(each.name + made_of)
    return " → ".join(words)


def train(options: argparse.Namespace, argv: Sequence[str]) -> int | None:
    """`ftcli train` of a pipeline: start one, go on with one, or begin one like another; None where it is a run."""
    if options.resume is not None:
        found = rundir.find_pipeline(options.resume)
        return _resume(found, options) if found is not None else None
    if options.source is not None:
        found = rundir.find_pipeline(options.source)
        return _start(_like(found, options), options, argv) if found is not None else None
    spec = composed(options)
    return _start(spec, options, argv) if spec is not None else None


def _start(spec: PipelineSpec, options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.dry_run:
        _show_plan(spec, as_json=options.json)
        return EXIT_DONE
    _require_here(spec, {})
    folder = pipeline_dir.create(spec, ["train", *argv])
    output.note(f"pipeline {folder}: {_graph(spec)}")
    # What the files of the new pipeline hold was typed, or granted, on this command line.
    request = arguments.request(options)
    request = replace(request, grants=request.grants | {ENDPOINT})
    return _carry_out(folder, request, {}, None, as_json=options.json)


def _require_here(spec: PipelineSpec, begun: Begun) -> None:
    from ftcli.cli.train import require_here, require_hub
    from ftcli.synthesis.openai_backend import require_backend

    for each in spec.stages:
        match each:
            case RunStage():
                require_here(begun[each.name][0] if each.name in begun else each.spec)
            case SynthesisStage():
                require_backend(each.spec.backend, each.spec.role)
            case ReadyStage() if not each.stage.task:
                require_hub(each.source, None, f"stages.{each.name}.model")


def _carry_out(folder: Path, request: Request, begun: Begun, state: Mapping[str, Any] | None, *, as_json: bool) -> int:
    """Carry a pipeline out, once `state` is its pipeline.json; None leaves that as it is."""
    from ftcli.pipelines import stage_loop

    with rundir.exclusive(folder):
        if state is not None:
            rundir.write_json(folder / rundir.PIPELINE, state)
        code = stage_loop.run(folder, replace(request, overrides=()), output.note, begun)
    if code == EXIT_DONE:
        report(str(folder), as_json=as_json)
    return code


def _as_it_stands(spec: PipelineSpec, folder: Path, begun: Begun) -> PipelineSpec:
    """The pipeline with what is finished in its stages' places, and what has begun as it goes on."""
    stages = list[StageSpec]()
    for each in spec.stages:
        if not isinstance(each, ReadyStage) and rundir.read_result(folder / each.name) is not None:
            each = ReadyStage(stage=each.stage, source=str(folder / each.name), fed=each.fed)
        elif isinstance(each, RunStage) and each.name in begun:
            each = replace(each, spec=begun[each.name][0])
        elif isinstance(each, SynthesisStage):
            each = each.placed(folder)
        stages.append(each)
    return replace(spec, dir=folder, stages=tuple(stages))


def _resume(folder: Path, options: argparse.Namespace) -> int:
    from ftcli.cli.train import require_folders
    from ftcli.pipelines import stage_loop

    request = arguments.request(options)
    wanted, _ = pipeline_dir.recalled(folder, request)
    state = stage_loop.changed(folder, wanted) if options.overrides else None
    if rundir.read_result(folder) is not None and not options.overrides:
        output.note(f"{folder} is finished; to train a stage anew: ftcli train --from {folder} stages.NAME.KEY=VALUE")
        report(str(folder), as_json=options.json)
        return EXIT_DONE
    rundir.require_free(folder)
    begun = stage_loop.goes_on(folder, wanted, output.note)
    stages = state["stages"] if state is not None else wanted.earlier
    spec = pipeline_spec(replace(wanted, request=replace(request, overrides=()), earlier=stages))
    if options.dry_run:
        for resumed, _ in begun.values():
            require_folders(resumed)
        _show_plan(_as_it_stands(spec, folder, begun), as_json=options.json, begun=begun)
        return EXIT_DONE
    _require_here(spec, begun)
    return _carry_out(folder, request, begun, state, as_json=options.json)


def _like(folder: Path, options: argparse.Namespace) -> PipelineSpec:
    """A pipeline like an earlier one, with the stages that would come out the same taken over."""
    wanted, _ = pipeline_dir.recalled(folder, arguments.request(options))
    spec = pipeline_spec(wanted)
    kept = pipeline_dir.taken_over(folder, wanted, spec.dir, spec.name)
    if len(kept) + sum(isinstance(each, ReadyStage) for each in spec.stages) == len(spec.stages):
        fix = f"change a stage, as stages.{spec.stages[-1].name}.seed=1; or anew: sh {folder / rundir.COMMAND}"
        raise ConfigError(Problem(f"--from {folder}", "every stage is finished and would come out the same", fix))
    for name, run in kept.items():
        output.note(f"stage {name}: taken over from {run}")
    return pipeline_spec(pipeline_dir.with_ready(wanted, kept))


def report(name: str, *, as_json: bool) -> bool:
    """`ftcli report` of a pipeline; False where `name` means none.

    Raises:
        ConfigError: it is not finished.
    """
    folder = rundir.find_pipeline(name)
    if folder is None:
        return False
    result = rundir.read_result(folder)
    if result is None:
        fix = f"go on with ftcli train --resume {folder}"
        raise ConfigError(Problem(str(folder), "is not finished: it has no result.json", fix))
    if as_json:
        output.data(result)
    else:
        _summary(folder, result)
    return True


def _summary(folder: Path, result: Mapping[str, Any]) -> None:
    from ftcli.cli.report import next_commands, relative, summary

    for name, of_stage in result["stages"].items():
        if "ready" in of_stage:
            print(f"stage {name}: {of_stage['ready']} stands in its place")
        elif "task" in of_stage:
            print(f"stage {name}")
            output.table(made.summary(folder / name, of_stage))
        else:
            print(f"stage {name}")
            summary(folder / name, of_stage)
    if measures := result.get("measures"):
        print("likeliest answers to held-out prompts")
        names = list(next(iter(measures.values())))
        rows = [(_moment(policy), *(f"{found[name]:.1%}" for name in names)) for policy, found in measures.items()]
        output.table([("", *names), *rows])
    measure = result.get("measure")
    if measure:
        print(f"{measure['name'].replace('_', ' ')} over {measure['rows']} held-out rows")
        output.table([(_moment(name), f"{value:.3f}") for name, value in measure["values"].items()])
    print(f"took {output.duration(float(result['seconds']))}, model {relative(Path(result['model_dir']))}")
    last = list(result["stages"])[-1]
    print("next")
    for command in next_commands(folder / last):
        print(f"  {command}")


def _moment(name: str) -> str:
    return "before" if name == "found" else f"after {name}"
