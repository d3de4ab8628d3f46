"""The configuration, plan and result of a pipeline, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftcli.build import fitting
from ftcli.cli import output
from ftcli.cli.render import configuration, transcripts
from ftcli.cli.render import plan as of_run
from ftcli.cli.render.configuration import reads
from ftcli.cli.render.summary import follow_up, summary
from ftcli.core.paths import relative
from ftcli.methods import Pipeline
from ftcli.pipelines.pipeline_dir import Begun
from ftcli.pipelines.stages import MODEL, ROWS, PipelineSpec, ReadyStage, RunStage, SynthesisStage
from ftcli.plan.outlook import Plan
from ftcli.reports.run_record import RunRecord
from ftcli.runs import provenance, run_end, rundir
from ftcli.runs.resume_line import resume_with
from ftcli.synthesis.journal import ITEMS
from ftcli.synthesis.synthesis_spec import SynthesisSpec

Outlooks = Mapping[str, Plan]
"""The plan of each training stage."""


def checked(spec: PipelineSpec, *, as_json: bool) -> None:
    """Print that there are no problems, and the graph of the stages."""
    if as_json:
        choices = {name: dict(run.spec.choices) for name, run in spec.runs().items()}
        stages = {name: reads(run.spec) for name, run in spec.runs().items()}
        whole = {"problems": [], "pipeline": spec.pipeline.name, "choices": choices, "reads": stages}
        whole["rounds"] = [*spec.rounds]
        output.data({**whole, **_provenance(spec)})
        return
    output.say(f"no problems: method={spec.pipeline.name}, {graph(spec)}")
    output.lines(spec.rounds)
    read = {name: reads(run.spec) for name, run in spec.runs().items()}
    output.table([(name, f"model {own['model']}", f"rows {own['rows']}") for name, own in read.items()])


def show_configuration(spec: PipelineSpec, *, as_json: bool) -> None:
    """Print the configuration of every stage."""
    if as_json:
        stages = {
            each.name: configuration.as_data(each.spec) if isinstance(each, RunStage) else _without_run(each)
            for each in spec.stages
        }
        output.data({"pipeline": spec.pipeline.name, "stages": stages, **_provenance(spec)})
        return
    for each in spec.stages:
        output.say(f"# stage {each.name}")
        match each:
            case RunStage():
                configuration.configuration(each.spec, as_json=False)
            case SynthesisStage():
                output.text(each.spec.to_json(), end="")
            case ReadyStage():
                output.say(f"# reusing {each.source}")


def show_plan(spec: PipelineSpec, outlooks: Outlooks, *, as_json: bool, begun: Begun = MappingProxyType({})) -> None:
    """Print the graph of a pipeline and the plan of every stage, with the remaining steps of those that have begun."""
    if as_json:
        output.data(_plan_as_data(spec, outlooks, begun))
        return
    output.say(f"{spec.pipeline.name}: {graph(spec)}")
    output.lines(spec.rounds)
    first, *others = [outlook.notes for outlook in outlooks.values()] or [()]
    shared = [note for note in first if others and all(note in notes for notes in others)]
    for each in spec.stages:
        output.say()
        match each:
            case RunStage():
                _show_run(spec.pipeline, each, outlooks[each.name], shared, begun)
            case SynthesisStage():
                output.say(f"stage {each.name}: {each.stage.summary}")
                output.table([*_synthesis_rows(each.spec), *_progress(spec.dir / each.name)])
            case ReadyStage():
                output.say(f"stage {each.name}: reusing {each.source}")
    if shared:
        output.text("\nin every stage")
        of_run.derived(shared)
    output.text(f"\n{_totals_text(_totals(spec, outlooks))}, in {spec.dir}")


def _totals(spec: PipelineSpec, outlooks: Outlooks) -> fitting.Totals:
    return fitting.totals({name: (run, outlooks[name]) for name, run in spec.runs().items()})


def _totals_text(found: fitting.Totals) -> str:
    """Steps, compute, time and the largest memory over all stages, as far as they are known."""
    words = ["an unknown number of steps" if found.steps is None else f"{found.steps} steps in total"]
    if found.flops is not None:
        words.append(f"about {found.flops:.1e} FLOP in training")
    if found.seconds is not None:
        words.append(f"about {output.duration(found.seconds)} of training steps")
    if found.memory_gib is not None:
        words.append(f"at most {found.memory_gib:.2f} GiB per process (stage {found.memory_of})")
    return ", ".join(words)


def _provenance(spec: PipelineSpec) -> dict[str, Any]:
    """That of a pipeline: its folder, when it began, and each of its runs, by stage."""
    if rundir.is_pipeline(spec.dir):
        return {provenance.KEY: provenance.of_folder(spec.dir)}
    own = {name: provenance.of_spec(run.spec) for name, run in spec.runs().items()}
    return {provenance.KEY: {"directory": str(spec.dir), "date": None, "stages": own}}


def _plan_as_data(spec: PipelineSpec, outlooks: Outlooks, begun: Begun) -> dict[str, Any]:
    stages = []
    for each in spec.stages:
        found: dict[str, Any] = {"stage": each.name, "takes": each.takes()}
        if isinstance(each, RunStage):
            found |= of_run.as_data(each.run, outlooks[each.name])
            if each.name in begun:
                found["resume"] = of_run.left(outlooks[each.name], begun[each.name][1])
        else:
            found |= _without_run(each)
        stages.append(found)
    total = _totals(spec, outlooks)._asdict()
    whole = {"pipeline": spec.pipeline.name, "dir": str(spec.dir), "stages": stages, "total": total}
    whole["rounds"] = [*spec.rounds]
    return {**whole, **_provenance(spec)}


def _show_run(pipeline: Pipeline, each: RunStage, outlook: Plan, shared: list[Mapping[str, Any]], begun: Begun) -> None:
    output.say(f"stage {each.name}: {each.stage.summary}")
    if each.name in begun:
        output.say(f"  {of_run.resumed(outlook, begun[each.name][1])}")
    takes = each.takes()
    start = f"the model of stage {takes[MODEL]}" if MODEL in takes else outlook.model
    source = takes.get(ROWS)
    rows = f"the rows of stage {source}" if source else of_run.rows_of(each.spec)
    output.say(f"  {each.spec.choices['method']} of {start} on {rows}, peft={each.spec.peft['name']}")
    if source and each.name not in begun:
        output.say(f"  steps and tokens are estimated on the built-in rows until stage {source} has finished")
    of_run.details(outlook, shared, verdict=fitting.fit(each.run, outlook))
    _built_in(pipeline, each)


def _without_run(each: SynthesisStage | ReadyStage) -> dict[str, Any]:
    """A stage without a training run, as data."""
    return {"make": dataclasses.asdict(each.spec)} if isinstance(each, SynthesisStage) else {"ready": each.source}


def _synthesis_rows(spec: SynthesisSpec) -> list[tuple[str, str]]:
    """The task, input, backend and settings of a synthesis stage, as rows of a table."""
    backend = spec.backend
    who = f"{spec.role}={spec.choices[spec.role]}, {backend.model or 'no model'}"
    limits = [f"at most {backend.max_requests} requests"] if backend.max_requests else []
    limits += [f"at most {backend.max_tokens} tokens"] if backend.max_tokens else []
    settings = ", ".join(f"{name}={value}" for name, value in spec.settings.items())
    rows = [("task", spec.task), ("rows", spec.rows), ("backend", ", ".join([who, *limits]))]
    return [*rows, *([("settings", settings)] if settings else [])]


def _progress(place: Path) -> list[tuple[str, str]]:
    """The number of finished items of a synthesis stage that has begun."""
    journal = place / ITEMS
    return [("finished", f"{len(journal.read_bytes().splitlines())} items")] if journal.is_file() else []


def _built_in(pipeline: Pipeline, each: RunStage) -> None:
    """Print the settings with which the built-in model learns in minutes."""
    tree, rows = each.spec.tree, []
    for name, value in pipeline.built_in(each.stage).items():
        group, _, key = name.partition(".")
        if each.spec.choices["model"] == "tiny" and _holds(tree[group].get(key), value):
            rows.append((name, str(value)))
    if rows:
        output.say("for the built-in model")
        output.table(rows)


def _holds(value: Any, wanted: Any) -> bool:
    """Whether a setting has the given value; a mixture may have additional sets."""
    if isinstance(value, dict) and isinstance(wanted, dict):
        return wanted.keys() <= value.keys()
    return bool(value == wanted)


def graph(spec: PipelineSpec) -> str:
    """Every stage with the stages it takes models or rows from: sft → reward (from sft) → ppo (from sft, reward)."""
    words = []
    for each in spec.stages:
        sources = dict.fromkeys(each.takes().values())
        origin = f" (from {', '.join(sources)})" if sources else " (reused)" if isinstance(each, ReadyStage) else ""
        words.append(each.name + origin)
    return " → ".join(words)


def show_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Print the result of every stage, and the metrics of the policies along the way."""
    for name, of_stage in result["stages"].items():
        if "ready" in of_stage:
            output.say(f"stage {name}: reusing {of_stage['ready']}")
        elif "task" in of_stage:
            output.say(f"stage {name}")
            output.table(transcripts.summary(folder / name, of_stage))
        else:
            output.say(f"stage {name}")
            summary(folder / name, of_stage)
    if measures := result.get("measures"):
        output.say("greedy answers to held-out prompts")
        names = list(next(iter(measures.values())))
        rows = [(_moment(policy), *(f"{found[name]:.1%}" for name in names)) for policy, found in measures.items()]
        output.table([("", *names), *rows])
    measure = result.get("measure")
    if measure:
        output.say(f"{measure['name'].replace('_', ' ')} over {measure['rows']} held-out rows")
        output.table([(_moment(name), f"{value:.3f}") for name, value in measure["values"].items()])
    output.say(f"took {output.duration(float(result['seconds']))}, model {relative(Path(result['model_dir']))}")
    last = list(result["stages"])[-1]
    follow_up(folder / last)


def show_stages(folder: Path, records: Sequence[RunRecord], *, as_json: bool) -> None:
    """Print where the training stages of a pipeline stand that is not done."""
    end = run_end.read(folder)
    if as_json:
        stages = {each.name: {"state": each.state.name, "step": each.state.step} for each in records}
        own = {provenance.KEY: provenance.of_folder(folder)}
        output.data({"end": dataclasses.asdict(end) if end else None, "stages": stages, **own})
        return
    how = "at work" if rundir.in_use(folder) else end.text() if end else "not done"
    output.say(f"{relative(folder)}: {how}")
    output.table([(f"stage {each.name}", each.state.text()) for each in records])
    if not rundir.in_use(folder):
        output.say(resume_with(folder))


def _moment(name: str) -> str:
    return "before" if name == "found" else f"after {name}"
