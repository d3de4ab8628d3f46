"""Recipe and overrides → one plain tree, with the origin of every value.

Our strict loader reads every file first; Hydra composes the groups (`ftcli/config/group_composition.py`). Precedence:
command line over recipe over groups.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.config import recipe_file as recipe_loader
from ftcli.config import recipe_paths, references
from ftcli.config.group_composition import compose_groups
from ftcli.config.overrides import Override, parse, repeated
from ftcli.config.tree import Origin, Tree
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import BUILTIN, is_builtin
from ftcli.core.strict_yaml import Document, KeyPath, load
from ftcli.core.suggest import suggest
from ftcli.methods import all_methods, all_pipelines
from ftcli.peft_methods import PEFT_METHODS
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS, PLACES

WRITERS = ("group", "run", "recipe", "cli")
"""Where values come from, in rising precedence."""
DECLARED = {"method": {*all_methods(), *all_pipelines()}, "peft": {"none", *PEFT_METHODS}}
"""Groups whose choices are declared in code: a file only sets their options."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line requests."""

    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    grants: frozenset[str] = frozenset()
    """Flags such as --allow-path that were given."""
    base: Mapping[str, Any] | None = None
    """The tree of an earlier run to start from (`--from`), instead of the groups' defaults."""
    base_choices: Mapping[str, str] = field(default_factory=dict)
    base_where: str = ""
    base_resolved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The groups `train` and `method` of the earlier run as they were resolved then."""
    stage: StageRequest | None = None
    """The pipeline stage to compose; None for a run of its own."""


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """Which stage of a pipeline to compose, and its inputs from other stages."""

    name: str
    method: str
    feeds: Mapping[str, Any] = field(default_factory=dict)
    """Settings, as `group.key`, and the model or judge that each one names."""
    promised: frozenset[str] = frozenset()
    """The feeds that name a placeholder, since their model is not trained yet."""
    built_in: Mapping[str, Any] = field(default_factory=dict)
    """Settings for the built-in model on its built-in rows."""
    like: str = ""
    """The stage whose settings hold for this one too, under its own."""
    held_back: frozenset[str] = frozenset()
    """The settings of `like` that do not."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The plain tree of a run before anything is checked or derived."""

    tree: dict[str, Any]
    choices: dict[str, str]
    origins: Mapping[KeyPath, Origin]
    request: Request

    def origin(self, *path: str) -> Origin:
        """The origin of a value, else of the last value inside it, else of its nearest ancestor."""
        if path not in self.origins:
            below = [known for known in self.origins if known[: len(path)] == path]
            path = below[-1] if below else path
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin("", "group"))

    def where(self, *path: str) -> str:
        """The place of a value, as errors print it."""
        return self.origin(*path).where

    def layer(self, *path: str) -> int:
        """Which of WRITERS set a value, by its index: a later one replaces what an earlier one set."""
        return WRITERS.index(self.origin(*path).by)


def _group_document(group: str, choice: str, where: str, request: Request) -> Document:
    """The file of a choice, checked.

    Raises:
        ConfigError: there is no such choice, or the file holds what a group file may not hold.
    """
    known = assets.choices(group, extra=request.config_dirs)
    if choice not in known:
        for other in GROUPS:
            if other != group and choice in assets.choices(other, extra=request.config_dirs):
                what = f"{choice} is a choice of {other}, not of {group}"
                raise ConfigError(Problem(where, what, f"ftcli train {other}={choice}"))
        fix = suggest(choice, known, f"{group}=")
        if group in PLACES:
            fix += f"; one that is not listed is named with {group}.{PLACES[group]}={choice}"
        raise ConfigError(Problem(where, f"{choice} is not a choice of {group}", fix))
    path = known[choice]
    shipped = path.is_relative_to(assets.CONFIGS)
    document = load(path, f"configs/{group}/{path.name}" if shipped else str(path))
    problems = recipe_loader.guard_values(document)
    if not shipped:
        problems += recipe_paths.guard_group_paths(document, group, path, allow_path="--allow-path" in request.grants)
    if group in DECLARED and choice not in DECLARED[group]:
        fix = f"name the file {group}/NAME.yaml, where NAME is one of {', '.join(sorted(DECLARED[group]))}"
        problems.append(Problem(document.file, f"there is no {group} {choice} for these settings", fix))
    if "defaults" in document.data:
        where = document.where(("defaults",))
        problems.append(Problem(where, "a group file holds only settings", "choose groups in a recipe's defaults"))
    if problems:
        raise ConfigError(*problems)
    return document


def _interpolate(tree: Tree) -> dict[str, Any]:
    """The finished tree: `${a.b}` references resolved, then the literal values put in.

    Raises:
        ConfigError: a reference is undefined, circular, or one of too many.
    """
    data = tree.data
    if references.refers(json.dumps(data, default=str)):
        data = references.resolved(data, tree.where)
    for path, value in tree.literal.items():
        node = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    return data


def _split(request: Request, problems: list[Problem]) -> tuple[list[Override], dict[str, Override], Override | None]:
    """Overrides as (values, choices by group, recipe); faults go to `problems`."""
    values: list[Override] = []
    choices: dict[str, Override] = {}
    recipe = None
    typed = _parsed(request, problems)
    for override in typed:
        if override.key == ("recipe",) and not override.delete:
            recipe = override
        elif override.text == recipe_loader.WITHOUT_SWEEP and "recipe" in {other.name for other in typed}:
            continue  # the recipe's reader knows it
        elif override.name in GROUPS:
            if override.delete:
                fix = (
                    f"{override.name}=none"
                    if override.name in ("peft", "quantisation")
                    else f"ftcli list {override.name}"
                )
                problems.append(Problem(override.text, f"a run needs a choice of {override.name}", fix))
            elif not isinstance(override.value, str):
                fix = f"ftcli list {override.name} shows them"
                problems.append(Problem(override.text, "needs the name of a choice", fix))
            else:
                choices[override.name] = override
        else:
            values.append(override)
    return values, choices, recipe


def _parsed(request: Request, problems: list[Problem]) -> list[Override]:
    """The overrides; for a stage those of all stages first, then its own, so that its own win."""
    typed: list[Override] = []
    for text in request.overrides:
        with _collected(problems):
            typed.append(parse(text))
    problems.extend(repeated(typed))
    common: list[Override] = []
    first: list[Override] = []
    own: list[Override] = []
    for override in typed:
        text = override.text
        if override.key[0] in ROLES:
            if request.stage is None:
                problems.append(
                    Problem(text, f"{override.key[0]} applies only to pipelines that synthesise data", "leave it out")
                )
        elif override.key[0] == "sweep" and not override.delete:
            fix = "ftcli sweep searches, and train -m runs every combination"
            problems.append(Problem(text, "says how several runs are made, and this is one", fix))
        elif override.key[0] != "stages":
            if request.stage is None or override.key[0] != "method":  # which is the pipeline's own
                common.append(override)
        elif request.stage is None:
            problems.append(
                Problem(text, "sets a stage, which only a pipeline has", "choose a pipeline, such as method=rlhf")
            )
        elif override.key[2:3] not in {(role,) for role in ROLES}:
            mine = replace(override, key=override.key[2:])
            if override.key[1:2] == (request.stage.name,):
                own.append(mine)
            elif override.key[1:2] == (request.stage.like,) and mine.name not in request.stage.held_back:
                first.append(mine)
    chosen = {override.name for override in own if len(override.key) == 1}
    return [*common, *(override for override in first if override.key[0] not in chosen), *own]


def _parts(recipe: recipe_loader.Recipe | None, request: Request) -> list[recipe_loader.Recipe]:
    """What the recipe says of the stage that is composed: of the first round, then of itself."""
    stage = request.stage
    if stage is None:
        return []
    chosen = set()
    for text in request.overrides:
        with contextlib.suppress(ConfigError):  # which is told where the overrides are split
            key = parse(text).key
            chosen |= {key[2]} if key[:2] == ("stages", stage.name) and len(key) == 3 else set()
    return recipe_loader.parts_of(recipe, stage.name, stage.like, stage.held_back, chosen)


def _read_recipe(override: Override, request: Request) -> recipe_loader.Recipe:
    """The recipe that `recipe=` names."""
    path = recipe_loader.find(str(override.value), override.text)
    return recipe_loader.read_for_run(path, request.overrides, allow_path="--allow-path" in request.grants)


def _choose(
    root: Document, request: Request, recipe: recipe_loader.Recipe | None, chosen: Mapping[str, Override]
) -> dict[str, tuple[str, Origin]]:
    """The choice of each group with its origin: command line over recipe over earlier run over root."""
    found = {group: (choice, Origin("", "group")) for entry in root.data["defaults"] for group, choice in entry.items()}
    for group, choice in request.base_choices.items():
        found[group] = (choice, Origin(request.base_where, "run"))
    for index, (group, choice) in enumerate(recipe.choices.items() if recipe else ()):
        assert recipe is not None
        if group in ROLES:
            continue
        found[group] = (choice, Origin(recipe.where(("defaults", str(index))), "recipe"))
    stage = request.stage
    for part in _parts(recipe, request):
        written = [group for entry in part.document.data.get("defaults", ()) for group in entry]
        for group, choice in part.choices.items():
            if group not in ROLES:
                place = ("defaults", str(written.index(group)))
                found[group] = (choice, Origin(part.where(place), "recipe"))
    for group, override in chosen.items():
        found[group] = (str(override.value), Origin(override.text, "cli"))
    if stage is not None:
        by = "group" if request.base is None else "run"
        found["method"] = (stage.method, Origin(f"stages.{stage.name}", by))
    return _implied(found)


def _implied(found: dict[str, tuple[str, Origin]]) -> dict[str, tuple[str, Origin]]:
    """The choices with the quantisation that the PEFT method implies, unless one was chosen."""
    peft = PEFT_METHODS.get(found["peft"][0])
    choice, origin = found["quantisation"]
    if peft and peft.implies and (origin.by == "group" or (origin.by == "run" and choice == "none")):
        found["quantisation"] = (peft.implies, Origin(found["peft"][1].where, "group"))
    return found


@contextlib.contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """Add the problems of a ConfigError raised inside."""
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def _lay_groups(tree: Tree, choices: Mapping[str, str], documents: Mapping[str, Document], root: Document) -> None:
    """Lay the chosen groups, then the root's own settings, with the line that each value has in its file."""
    composed = compose_groups(choices, documents, root)
    for group, document in documents.items():
        lines = {(group, *path): line for path, line in document.lines.items()}
        literal = frozenset((group, key) for key in recipe_paths.path_keys(group, document.data))
        tree.data.setdefault(group, {})  # also of a file that sets nothing
        tree.lay({group: composed[group]}, Document(document.file, {}, lines), "group", literal)
    rest = {key: value for key, value in composed.items() if key not in GROUPS}
    tree.lay(rest, root, "group")


def compose(request: Request) -> Composed:
    """Compose groups, recipe and command line into one plain tree.

    Raises:
        ConfigError: every problem in the files and in the syntax of the overrides, at once.
    """
    problems: list[Problem] = []
    values, chosen, recipe_override = _split(request, problems)
    root = load(assets.CONFIGS / "config.yaml", "configs/config.yaml")
    recipe = None
    if recipe_override is not None:
        with _collected(problems):
            recipe = _read_recipe(recipe_override, request)
    picked = _choose(root, request, recipe, chosen)
    documents: dict[str, Document] = {}
    method, where = picked["method"]
    if method in all_pipelines():
        stages = " or ".join(f"method={stage.method}" for stage in all_pipelines()[method].stages)
        what = f"{method} is a pipeline; this command takes a single run"
        raise ConfigError(Problem(where.where or f"method={method}", what, f"name a stage's method: {stages}"))
    # Every file is read before anything is raised, so that all their faults are reported together.
    for group, (choice, origin) in picked.items():
        with _collected(problems):
            documents[group] = _group_document(group, choice, origin.where, request)
    if problems:
        raise ConfigError(*problems)
    choices = {group: choice for group, (choice, _) in picked.items()}
    tree = Tree()
    _lay_groups(tree, choices, documents, root)
    if request.base is not None:  # a group chosen again keeps nothing of the earlier run
        kept = {key: value for key, value in request.base.items() if key not in GROUPS or picked[key][1].by == "run"}
        tree.lay(kept, Document(request.base_where, {}, {}), "run", literal=None)  # a saved spec is plain data
    if recipe is not None:
        of_pipeline = ROLES if request.stage is None else (*ROLES, "method")
        values_of_run = {group: own for group, own in recipe.values.items() if group not in of_pipeline}
        tree.lay(values_of_run, recipe.document, "recipe", recipe.literal)
        for part in _parts(recipe, request):
            values_of_run = {group: own for group, own in part.values.items() if group not in ROLES}
            tree.lay(values_of_run, part.document, "recipe", part.literal)
    for override in values:
        with _collected(problems):
            _apply(tree, override)
    if request.stage is not None:
        _set_inputs(tree, request.stage)
    if problems:
        raise ConfigError(*problems)
    data = _interpolate(tree)
    origins: dict[KeyPath, Origin] = {**{(group,): origin for group, (_, origin) in picked.items()}, **tree.origins}
    return Composed(tree=data, choices=choices, origins=origins, request=request)


def _set_inputs(tree: Tree, stage: StageRequest) -> None:
    """Set what a stage gets from other stages, and the built-in model's settings where nothing else sets them."""
    where = f"stages.{stage.name}"
    if tree.data["model"].get("name_or_path") == BUILTIN and is_builtin(tree.data["data"].get("path")):
        for name, value in stage.built_in.items():
            path = tuple(name.split("."))
            if tree.origins.get(path, Origin("", "group")).by == "group":
                tree.set(path, value, Origin(where, "group"))
    for name, value in stage.feeds.items():
        # Synthesised rows join the mix, if there is one.
        mixed = name == "data.path" and isinstance(tree.data["data"].get("mix"), dict)
        path = ("data", "mix", "made", "path") if mixed else tuple(name.split("."))
        tree.set(path, value, Origin(where, "run"), literal=True)


def _apply(tree: Tree, override: Override) -> None:
    """Set or delete one value, as the command line says."""
    if override.delete:
        tree.delete(override)
        return
    if not override.literal and references.has_resolver(json.dumps(override.value)):
        raise ConfigError(Problem(override.text, "calls a resolver", references.ONLY_REFERENCES))
    tree.set(override.key, override.value, Origin(override.text, "cli"), literal=override.literal)
