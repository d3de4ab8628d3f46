"""A request for a pipeline, parsed: the pipeline, its recipe, and the stored request of an earlier pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.build.inputs.moved_inputs import Moved
from ftcli.config import recipe_file as recipe_loader
from ftcli.config.compose import Request
from ftcli.config.overrides import Override, parse
from ftcli.config.recipe_file import Recipe
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.methods import Pipeline, all_pipelines


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

    def typed(self) -> list[Override]:
        """The overrides that can be parsed; the others are reported when a stage is composed."""
        return _readable(self.request)


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
