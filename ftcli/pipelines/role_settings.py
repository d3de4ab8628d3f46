"""Settings of a generator or judge that no stage reads: its backend is of another type, or no stage has that role."""

from __future__ import annotations

from collections.abc import Iterator

from ftcli.core.errors import Problem
from ftcli.methods.pipeline import Stage
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.pipelines.synthesis_stage import type_of, written
from ftcli.settings.backends import ROLES, unread


def unread_settings(wanted: PipelineRequest) -> Iterator[Problem]:
    """Each that is written and that none of the stages it holds for reads.

    A recipe's setting that the command line takes the ground from, by another type, is the command's doing and no
    mistake.
    """
    typed = {each.text for each in wanted.typed()}
    found: dict[tuple[str, str], list[tuple[str, str] | None]] = {}
    for stage in wanted.pipeline.stages:
        if not stage.role:
            continue
        backend, at = type_of(stage, wanted)
        for name, where in _settings(stage, wanted):
            why = unread(name.partition(".")[2], backend, stage.role)
            overtaken = at in typed and where not in typed
            found.setdefault((name, where), []).append(None if overtaken else why)
    for (name, where), reasons in found.items():
        why = next(iter(reasons))
        if why is not None and None not in reasons:
            yield Problem(where, f"{name} {why[0]}", why[1])
    yield from _without_role(wanted)


def _settings(stage: Stage, wanted: PipelineRequest) -> Iterator[tuple[str, str]]:
    """The settings of its role that recipe and command line give a stage, each with its place."""
    for name, value, where in written(stage, wanted):
        if name.startswith(f"{stage.role}.") and value is not None:
            yield name, where


def _without_role(wanted: PipelineRequest) -> Iterator[Problem]:
    """Choices and settings of a role that no stage of the pipeline has, or of a stage that has another role or none."""
    recipe, name = wanted.recipe, wanted.pipeline.name
    for role in sorted(set(ROLES) - {stage.role for stage in wanted.pipeline.stages}):
        places = [each.text for each in wanted.typed() if each.key[0] == role and not each.delete]
        places += [recipe.where((role,))] if recipe is not None and role in recipe.values else []
        places += [recipe.where(("defaults",))] if recipe is not None and role in recipe.choices else []
        what = f"has no effect: no stage of method={name} as it is set has a {role}"
        yield from (Problem(where, what, "remove it") for where in places)
    for stage in wanted.pipeline.stages:
        others = set(ROLES) - {stage.role} if stage.method else set[str]()
        places = [each.text for each in wanted.own(stage.name) if each.key[2:3] and each.key[2] in others]
        part = recipe.stages.get(stage.name) if recipe is not None else None
        places += [part.where((role,)) for role in sorted(others) if part is not None and role in part.values]
        what = f"has no effect: stage {stage.name} has no {' and no '.join(sorted(others))}"
        yield from (Problem(where, what, "set it for the stage that has one, or remove it") for where in places)
