"""A request for a pipeline, parsed: the pipeline, its recipe, and the stored request of an earlier pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftcli.build.inputs.moved_inputs import Moved
from ftcli.config import recipe_file as recipe_loader
from ftcli.config.compose import Request
from ftcli.config.overrides import Override, parse
from ftcli.config.recipe_file import Recipe
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.methods import Pipeline, all_pipelines
from ftcli.methods.pipeline import Stage


@dataclass(frozen=True, kw_only=True)
class PipelineRequest:
    """A request for a pipeline, parsed."""

    request: Request
    pipeline: Pipeline
    recipe: Recipe | None = None
    earlier: Mapping[str, Any] | None = None
    """The stages stored by an earlier pipeline, by name, used instead of the groups' defaults."""
    earlier_where: str = ""
    built_in: bool = False
    """Whether the earlier pipeline started from the built-in model and rows."""
    moved: Moved = field(default_factory=Moved)
    """Where what the earlier pipeline read lies now, if its folder was copied."""

    def own(self, stage: str) -> list[Override]:
        """The overrides of one stage, as typed."""
        return [each for each in self.typed() if each.key[:2] == ("stages", stage)]

    def of(self, stage: Stage) -> list[Override]:
        """The overrides that hold for a stage, keyed as its own: those of the first round, then those typed for it."""
        first = [] if self.earlier is not None or not stage.like else self.own(stage.like)
        parts = recipe_loader.parts_of(self.recipe, stage.name, "", ())
        chosen = {*self._chosen(stage), *(group for part in parts for group in part.choices)}
        held = [each for each in first if ".".join(each.key[2:]) not in stage.held_back and each.key[2] not in chosen]
        return [*(replace(each, key=("stages", stage.name, *each.key[2:])) for each in held), *self.own(stage.name)]

    def parts(self, stage: Stage) -> list[Recipe]:
        """What the recipe says of a stage: of the first round, then of itself."""
        return recipe_loader.parts_of(self.recipe, stage.name, stage.like, stage.held_back, self._chosen(stage))

    def _chosen(self, stage: Stage) -> set[str]:
        """The groups and roles of which something is typed for a stage alone."""
        return {each.key[2] for each in self.own(stage.name) if len(each.key) == 3}

    def rounds(self) -> list[str]:
        """What each later round has of the first, and what it sets itself, a line each."""
        found = []
        for stage in self.pipeline.stages if self.earlier is None else ():
            if not stage.like:
                continue
            own = {*_names(self.own(stage.name)), *self._written(stage.name)}
            first = dict.fromkeys((*self._written(stage.like), *_names(self.own(stage.like))))
            held = {*_names(self.of(stage)), *(name for part in self.parts(stage) for name in _settings(part))}
            as_first = [name for name in first if name in held and name not in own]
            instead = [name for name in first if name in own]
            said = [f"has {', '.join(as_first)} of {stage.like}"] if as_first else []
            said += [f"sets {', '.join(instead)} itself, in place of that of {stage.like}"] if instead else []
            found += [f"stage {stage.name} {', and '.join(said)}"] if said else []
        return found

    def _written(self, stage: str) -> list[str]:
        """The settings that the recipe has for a stage."""
        return [name for part in recipe_loader.parts_of(self.recipe, stage, "", ()) for name in _settings(part)]

    def typed(self) -> list[Override]:
        """The overrides that can be parsed; the others are reported when a stage is composed."""
        return _readable(self.request)


def _names(overrides: list[Override]) -> list[str]:
    """The settings that a stage's overrides set."""
    return [".".join(each.key[2:]) for each in overrides]


def _settings(part: Recipe) -> list[str]:
    """The settings and choices of a stage's part of a recipe."""
    found = [*part.choices]
    for group, own in part.values.items():
        found += [f"{group}.{key}" for key in own] if isinstance(own, dict) else [group]
    return found


def pipeline_request(request: Request) -> PipelineRequest | None:
    """The pipeline that a request names, or None if it names a single run.

    Raises:
        ConfigError: the recipe cannot be read.
    """
    typed = _readable(request)
    named = {each.name: each for each in typed if each.name in ("recipe", "method") and not each.delete}
    recipe = None
    if "recipe" in named:
        path = recipe_loader.find(str(named["recipe"].value), named["recipe"].text)
        recipe = recipe_loader.read_for_run(path, request.overrides, allow_path="--allow-path" in request.grants)
    choice = named["method"].value if "method" in named else recipe.choices.get("method") if recipe else None
    pipeline = all_pipelines().get(str(choice))
    if pipeline is None:
        if recipe is not None and recipe.stages:
            where = recipe.where(("stages",))
            raise ConfigError(
                Problem(where, "only a pipeline has stages", "choose a pipeline, for example method=rlhf")
            )
        return None
    return PipelineRequest(request=request, pipeline=pipeline.arranged(options(pipeline, typed, recipe)), recipe=recipe)


def options(pipeline: Pipeline, typed: list[Override], recipe: Recipe | None = None) -> dict[str, Any]:
    """The pipeline's own options, `method.NAME`, from the recipe and the overrides.

    Raises:
        ConfigError: an option has an invalid value.
    """
    written = recipe.values.get("method") if recipe is not None else None
    found = {
        name: (value, recipe.where(("method", name)))
        for name, value in (written if isinstance(written, dict) else {}).items()
        if recipe is not None and name in pipeline.options
    }
    for override in typed:
        if override.key[0] == "method" and "".join(override.key[1:]) in pipeline.options and not override.delete:
            found[override.key[1]] = (override.value, override.text)
    problems = []
    for name, (value, where) in found.items():
        choices = pipeline.options[name].choices
        if choices and value not in choices:
            fix = suggest(str(value), list(map(str, choices)), "")
            problems.append(Problem(where, f"{value} is not a choice of method.{name}", fix))
        elif not choices and (type(value) is not int or value < 1):
            what = f"method.{name} is {value!r}, which is not a positive whole number"
            problems.append(Problem(where, what, f"for example method.{name}=2"))
    if problems:
        raise ConfigError(*problems)
    return {name: value for name, (value, _) in found.items()}


def _readable(request: Request) -> list[Override]:
    found = []
    for text in request.overrides:
        with contextlib.suppress(ConfigError):
            found.append(parse(text))
    return found
