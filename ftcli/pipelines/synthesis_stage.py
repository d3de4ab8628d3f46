"""The synthesis stages of a pipeline: their settings and the backend of their role, as one checked SynthesisSpec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ftcli import tiny
from ftcli.build.checks.field_checks import credential_problem, limit_problem, type_problem
from ftcli.config import credentials
from ftcli.config.recipe_file import Recipe
from ftcli.config.references import unescaped
from ftcli.core import assets, paths
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import is_revision
from ftcli.core.strict_yaml import load
from ftcli.core.suggest import suggest
from ftcli.data import row_sets
from ftcli.data.files.locate import SourcePath, locate
from ftcli.methods.pipeline import Stage
from ftcli.models import sources
from ftcli.pipelines.pipeline_request import PipelineRequest
from ftcli.settings import library_fields
from ftcli.settings.backends import ENDPOINTS, OWN_WEIGHTS, ROLES, BackendSettings, unread
from ftcli.settings.limits import LIMITS, OF_BACKEND, Limit
from ftcli.settings.ownership import ENDPOINT
from ftcli.synthesis import few_shot, principles
from ftcli.synthesis.backend import backend_problems
from ftcli.synthesis.synthesis_spec import SynthesisSpec
from ftcli.synthesis.tasks import SETTINGS, Revise

_LIMITS: Mapping[str, Limit] = {
    "make.n": Limit(low=1),
    "make.temperature": Limit(low=0),
    "make.max_new_tokens": Limit(low=1),
    "make.principles_each": Limit(low=1),
    "make.least_margin": Limit(low=0, high=1),
    "make.rounds": Limit(low=1),
    **OF_BACKEND,
    "data.max_rows": Limit(low=1),
}
JUDGE = "method.judge"
"""The setting of a run whose rewards come from a judge: the judge's backend."""
_BACKEND = "ftcli.settings.backends:BackendSettings"


@dataclass
class _Values:
    """Settings under construction, each with the place where it was written."""

    values: dict[str, Any]
    places: dict[str, str]

    def set(self, name: str, value: Any, where: str) -> None:
        self.values[name], self.places[name] = value, where


def synthesis_spec(
    stage: Stage, wanted: PipelineRequest, feeds: Mapping[str, str], folder: Path, *, for_tiny: bool
) -> SynthesisSpec:
    """The spec of a synthesis stage.

    Args:
        feeds: what it takes from other stages: `rows` and `backend.model`.
        for_tiny: whether the pipeline trains the built-in model on built-in rows.

    Raises:
        ConfigError: all problems found.
    """
    earlier = (wanted.earlier or {}).get(stage.name, {}).get("make")
    found, problems = _Values({}, {}), list[Problem]()
    if earlier:
        for name, value in earlier["values"].items():
            found.set(name, value, wanted.earlier_where)
        choice, at = str(earlier["choice"]), wanted.earlier_where
    else:
        choice, at = "local", f"stages.{stage.name}"
        for name, value in wanted.pipeline.built_in(stage).items() if for_tiny else ():
            found.set(name, value, f"stages.{stage.name}")
    choice, at = _chosen(stage, wanted, choice, at)
    found.places[stage.role] = at
    _apply_choice(stage, choice, at, found, problems, wanted)
    for name, value, where in written(stage, wanted):
        found.set(name, value, where)
    problems += [*_value_problems(stage, found), *_endpoint_problems(stage, wanted, found)]
    if problems:
        raise ConfigError(*problems)
    return _resolved(stage, choice, found, feeds, folder, wanted)


def _chosen(stage: Stage, wanted: PipelineRequest, choice: str, at: str) -> tuple[str, str]:
    """The choice of the stage's role: the command line over the recipe over the earlier choice."""
    recipe = wanted.recipe
    if recipe is not None:
        for each in (recipe, *wanted.parts(stage)):
            if stage.role in each.choices:
                choice, at = each.choices[stage.role], each.where(("defaults",))
    own = [each for each in wanted.of(stage) if each.key[2:] == (stage.role,)]
    for override in (*(each for each in wanted.typed() if each.key == (stage.role,)), *own):
        choice, at = str(override.value), override.text
    return choice, at


def type_of(stage: Stage, wanted: PipelineRequest) -> tuple[str, str]:
    """The type of the backend of a stage's role, and where it is written."""
    kept = (wanted.earlier or {}).get(stage.name, {})
    begun_as = kept["make"]["choice"] if kept.get("make") else _kept_judge(kept).get("type", "local")
    choice, at = _chosen(stage, wanted, str(begun_as), wanted.earlier_where)
    known = assets.choices(stage.role, extra=wanted.request.config_dirs)
    found = str(load(known[choice], choice).data.get("type", "local")) if choice in known else choice
    for name, value, where in written(stage, wanted):
        if name == f"{stage.role}.type":
            found, at = str(value), where
    return found, at


def _apply_choice(
    stage: Stage, choice: str, at: str, found: _Values, problems: list[Problem], wanted: PipelineRequest
) -> None:
    """Add the values of the chosen group file, below the values that were written."""
    known = assets.choices(stage.role, extra=wanted.request.config_dirs)
    if choice not in known:
        problems.append(
            Problem(at, f"{choice} is not a choice of {stage.role}", suggest(choice, known, f"{stage.role}="))
        )
        return
    document = load(known[choice], f"configs/{stage.role}/{known[choice].name}")
    for key, value in document.data.items():
        found.values.setdefault(f"{stage.role}.{key}", value)
        found.places.setdefault(f"{stage.role}.{key}", document.where((key,)))
    found.set(f"{stage.role}.type", document.data.get("type", "local"), document.where(("type",)))


def written(stage: Stage, wanted: PipelineRequest) -> Iterator[tuple[str, Any, str]]:
    """The values that recipe and command line give the stage, each with its place, in rising order of precedence."""
    recipe = wanted.recipe
    if recipe is not None:
        for group in (stage.role, "data", "seed"):
            yield from _of_group(recipe.values.get(group), group, stage, recipe)
    for part in wanted.parts(stage):
        for group, values in part.values.items():
            yield from _of_group(values, group, stage, part, own=True)
    common = [(each, each.key) for each in wanted.typed() if each.key[0] in (stage.role, "data", "seed")]
    own = [(each, each.key[2:]) for each in wanted.of(stage)]
    for override, key in (*common, *own):
        name = ".".join(key)
        if key == (stage.role,) or (key[0] == "data" and name not in _OF_DATA and (override, key) in common):
            continue
        yield name, override.value if override.literal else unescaped(override.value), override.text


_OF_DATA = ("data.path", "data.max_rows")


def _of_group(
    values: Any, group: str, stage: Stage, document: Recipe, own: bool = False
) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(values, dict):
        if values is not None:
            yield group, unescaped(values), document.where((group,))
        return
    for key, value in values.items():
        name = f"{group}.{key}"
        if own or group != "data" or name in _OF_DATA:
            yield name, value if (group, key) in document.literal else unescaped(value), document.where((group, key))


def _value_problems(stage: Stage, found: _Values) -> Iterator[Problem]:
    """Unknown names, and values of the wrong type or out of range."""
    of_task = f"ftcli.synthesis.tasks:{SETTINGS[stage.task].__name__}"
    known = {f"make.{name}": field for name, field in library_fields.fields_of(of_task).items()}
    known |= {f"{stage.role}.{name}": field for name, field in library_fields.fields_of(_BACKEND).items()}
    data = library_fields.fields_of("ftcli.settings.groups:DataSettings")
    known |= {name: data[name.partition(".")[2]] for name in _OF_DATA}
    for name, value in found.values.items():
        where = found.places[name]
        if name == "seed":
            if not isinstance(value, int) or isinstance(value, bool):
                yield Problem(where, f"seed is {value!r}, which is not a whole number", "for example seed=42")
            elif (problem := limit_problem(name, value, LIMITS[name], where)) is not None:
                yield problem
            continue
        if held := credentials.held_by(value):
            yield credential_problem(name, held, where)
            continue
        if name.endswith(".revision") and isinstance(value, str) and not is_revision(value):
            yield Problem(where, f"{name}={value} is no branch, tag or commit", "write a word")
            continue
        if name not in known:
            what = f"{name} is not an option of synthesis stage {stage.name}"
            yield Problem(where, what, suggest(name, known, f"stages.{stage.name}."))
            continue
        limit = _LIMITS.get(name) or _LIMITS.get(name.partition(".")[2])
        problem = type_problem(name, value, known[name], None, where) or limit_problem(name, value, limit, where)
        if problem is not None:
            yield problem


def _resolved(
    stage: Stage, choice: str, found: _Values, feeds: Mapping[str, str], folder: Path, wanted: PipelineRequest
) -> SynthesisSpec:
    values = found.values

    def of(group: str) -> dict[str, Any]:
        return {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{group}.")}

    settings, backend = of("make"), of(stage.role)
    if stage.task == Revise.name and not (wanted.earlier or {}).get(stage.name, {}).get("make"):
        settings.setdefault("examples", few_shot.DEFAULT)  # stages of earlier versions had none
    known = [each.name for each in fields(BackendSettings) if each.name in backend]
    backend = {name: backend[name] for name in known if unread(name, str(backend.get("type")), stage.role) is None}
    problems = [*_constitution_problems(settings, found)]
    problems += backend_problems(backend, stage.role, found.places[stage.role])
    for name in ("constitution", "examples", "labelled"):
        if settings.get(name) and settings[name] != few_shot.DEFAULT:
            settings[name] = row_sets.absolute(str(settings[name]))
    rows = feeds.get("rows")
    if rows is None:
        rows = values.get("data.path")
        where = found.places.get("data.path", f"stages.{stage.name}.data.path")
        if isinstance(rows, list):
            what = f"stage {stage.name} reads its prompts from one place, not from {len(rows)}"
            raise ConfigError(*problems, Problem(where, what, "name a folder, or a pattern such as part-*.jsonl"))
        problems += _rows_problems(rows, where, stage)
        rows = row_sets.absolute(str(rows))
    if backend.get("type") in OWN_WEIGHTS and backend.get("model") is None:
        backend["model"] = feeds.get("backend.model")
    elif backend.get("type") in OWN_WEIGHTS:
        problems += _model_problems(str(backend["model"]), found.places[f"{stage.role}.model"])
    if backend.get("type") in ENDPOINTS and not backend.get("model"):
        fix = f"set {stage.role}.model"
        problems.append(Problem(f"{stage.role}={backend['type']}", "an endpoint needs the name of a model", fix))
    if problems:
        raise ConfigError(*problems)
    return SynthesisSpec(
        task=stage.task,
        seed=int(values.get("seed", 42)),
        dir=str(folder / stage.name),
        rows=rows,
        role=stage.role,
        backend=BackendSettings(**backend),
        settings=settings,
        max_rows=values.get("data.max_rows"),
        choices={stage.role: choice},
    )


def _endpoint_problems(stage: Stage, wanted: PipelineRequest, found: _Values) -> Iterator[Problem]:
    """Problems of an endpoint, its address or its key that come from a file and not from the command line."""
    if found.values.get(f"{stage.role}.type") not in ENDPOINTS or ENDPOINT in wanted.request.grants:
        return
    typed = {".".join(each.key) for each in wanted.typed()}
    typed |= {".".join(each.key[2:]) for each in wanted.of(stage)}
    for name in (stage.role, f"{stage.role}.base_url", f"{stage.role}.api_key_env"):
        if name not in typed and (name == stage.role or found.values.get(name) is not None):
            where = found.places.get(name) or found.places[stage.role]
            what = "sends rows and your API key to an endpoint, which a file alone may not do"
            typed_role = f"type {stage.role}={found.values[f'{stage.role}.type']}"
            yield Problem(where, what, f"grant it on the command line with {ENDPOINT}, or {typed_role}")
            return


def judge_of(stage: Stage, wanted: PipelineRequest) -> dict[str, Any]:
    """The backend settings of the judge that gives a run its rewards.

    Raises:
        ConfigError: there is no such choice, or it needs a grant.
    """
    found, problems = _Values({}, {}), list[Problem]()
    earlier = (wanted.earlier or {}).get(stage.name, {})
    kept = _kept_judge(earlier)
    begun_as = (str(kept.get("type", "local")), wanted.earlier_where if kept else f"stages.{stage.name}")
    choice, at = _chosen(stage, wanted, *begun_as)
    if (choice, at) == begun_as:
        for name, value in kept.items():
            if name != "model" or JUDGE not in earlier.get("fed", ()):
                found.set(f"{stage.role}.{name}", value, wanted.earlier_where)
    found.places[stage.role] = at
    _apply_choice(stage, choice, at, found, problems, wanted)
    for name, value, where in written(stage, wanted):
        if name.startswith(f"{stage.role}."):
            found.set(name, value, where)
    problems += _endpoint_problems(stage, wanted, found)
    if problems:
        raise ConfigError(*problems)
    own = {name.partition(".")[2]: value for name, value in found.values.items()}
    backend = str(own.get("type", "local"))
    return {name: value for name, value in own.items() if value is not None and unread(name, backend, JUDGE) is None}


def _kept_judge(earlier: Mapping[str, Any]) -> Mapping[str, Any]:
    """The judge of a run in the record of a pipeline."""
    return earlier.get("tree", {}).get("method", {}).get("judge") or {}


def _constitution_problems(settings: Mapping[str, Any], found: _Values) -> Iterator[Problem]:
    named, missing = settings.get("constitution"), False
    for name in ("examples", "labelled"):
        value = settings.get(name)
        if value in (None, "", few_shot.DEFAULT) or paths.is_builtin(value):
            continue
        if not os.path.exists(row_sets.absolute(str(value))):
            missing = missing or name == "examples"
            yield Problem(found.places[f"make.{name}"], f"there is no file {value}", "name an existing file")
    if not named and not settings.get("examples"):
        return
    try:
        known = principles.named(named if named is None or paths.is_builtin(named) else row_sets.absolute(str(named)))
        if settings.get("examples") and not missing:
            examples = str(settings["examples"])
            few_shot.named(examples if examples == few_shot.DEFAULT else row_sets.absolute(examples), known)
    except ConfigError as error:
        yield from error.problems


def _rows_problems(rows: Any, where: str, stage: Stage) -> Iterator[Problem]:
    if not rows or rows == paths.BUILTIN:
        fix = f"set stages.{stage.name}.data.path=FILE"
        yield Problem(where, f"stage {stage.name} has no prompts to answer", fix)
    elif paths.is_builtin(rows):
        name = str(rows).removeprefix(paths.BUILTIN_SETS)
        if name not in tiny.set_names():
            yield Problem(where, f"{rows} is not a built-in set", suggest(name, tiny.set_names(), paths.BUILTIN_SETS))
    else:
        try:
            locate(SourcePath(path=str(rows)), where, fetch=False)
        except ConfigError as error:
            yield from error.problems


def _model_problems(name: str, where: str) -> Iterator[Problem]:
    source = sources.model_source(name)
    if source is None or not source.is_plausible:
        yield Problem(where, f"{name} holds no model", "name a finished run, a model folder or a hub id")
    elif source.folder is not None and sources.head_of(source.folder) == "reward_model":
        yield Problem(where, f"{name} is a reward model, not a causal LM", "name a causal LM")


def remembered(spec: SynthesisSpec) -> dict[str, Any]:
    """A stage's entry in pipeline.json, from which `synthesis_spec` composes it again."""
    values: dict[str, Any] = {f"make.{name}": value for name, value in spec.settings.items()}
    values |= {f"{spec.role}.{name}": value for name, value in asdict(spec.backend).items() if value is not None}
    values["seed"] = spec.seed
    if spec.max_rows is not None:
        values["data.max_rows"] = spec.max_rows
    return {"choice": spec.choices[spec.role], "values": values}


__all__ = ["ROLES", "remembered", "synthesis_spec"]
