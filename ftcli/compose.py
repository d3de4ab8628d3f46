"""Recipe and overrides → one plain tree, with the origin of every value. The only place that uses Hydra.

Every file is read by our strict loader first and handed to Hydra as plain data through its ConfigStore; Hydra composes
the groups and never opens a file. Precedence: command line over recipe over groups.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli import assets
from ftcli.errors import ConfigError, Problem
from ftcli.methods import all_methods
from ftcli.names import suggest
from ftcli.overrides import Override, parse
from ftcli.peft_methods import PEFT_METHODS
from ftcli.recipes import load as recipe_loader
from ftcli.recipes.strict import Document, KeyPath, load
from ftcli.settings import GROUPS

ROOT_CONFIG = "config"
# Hydra's own settings, which come from files of its package, take a third of the composition and serve nothing here.
_NO_HYDRA_NODE = [
    {f"override hydra/{name}": None}
    for name in ("env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper")
]
WRITERS = ("group", "run", "recipe", "cli")
"""Who writes values, each over those before it."""
DECLARED = {"method": all_methods().keys(), "peft": {"none", *PEFT_METHODS}}
"""Groups whose choices are declared in code: a file only sets their knobs."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for on the command line."""

    overrides: tuple[str, ...] = ()
    config_dirs: tuple[Path, ...] = ()
    grants: frozenset[str] = frozenset()
    """Flags such as --allow-path that were given."""
    base: Mapping[str, Any] | None = None
    """The tree of an earlier run to start from (`--from`), instead of the groups' defaults."""
    base_choices: Mapping[str, str] = field(default_factory=dict)
    base_where: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a value was written: its place, and by whom (group, run, recipe or cli)."""

    where: str
    by: str


@dataclass(frozen=True, kw_only=True)
class Composed:
    """The plain tree of a run before anything is checked or derived."""

    tree: dict[str, Any]
    choices: dict[str, str]
    origins: Mapping[KeyPath, Origin]
    request: Request

    def origin(self, *path: str) -> Origin:
        """Who wrote a value, or the last of its parts, or its nearest parent."""
        if path not in self.origins:
            below = [known for known in self.origins if known[: len(path)] == path]
            path = below[-1] if below else path
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin("", "group"))

    def where(self, *path: str) -> str:
        """The place of a value, as errors print it."""
        return self.origin(*path).where


class _Tree:
    """A tree under construction: values are laid over one another, the last writer's place is kept."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[KeyPath, Origin] = {}
        self.literal: dict[KeyPath, Any] = {}

    def forget(self, path: KeyPath) -> None:
        """Drop the origins and literals at and below `path`."""
        for table in (self.origins, self.literal):
            for known in [known for known in table if known[: len(path)] == path]:
                table.pop(known)

    def set(self, path: KeyPath, value: Any, origin: Origin, *, literal: bool = False) -> None:
        """Set one value, and forget what stood at and below its place.

        A literal value that looks like a reference is held back until references are replaced; every other one stands
        where references to it find it.
        """
        node = self.data
        for depth, key in enumerate(path[:-1], 1):
            if not isinstance(node.get(key), dict):
                node[key] = {}
                self.forget(path[:depth])
            node = node[key]
        self.forget(path)
        held = literal and "${" in json.dumps(value, default=str)
        node[path[-1]] = None if held else copy.deepcopy(value)
        if held:
            self.literal[path] = copy.deepcopy(value)
        self.origins[path] = origin

    def lay(
        self, values: Mapping[str, Any], document: Document, by: str, literal: frozenset[KeyPath] | None = frozenset()
    ) -> None:
        """Lay a file's values over the tree: settings of a group one by one, deeper mappings whole.

        `literal` names the values that are never interpolated; None means all of them.
        """
        for group, settings in values.items():
            if not isinstance(settings, dict):
                self.set((group,), settings, Origin(document.where((group,)), by), literal=literal is None)
                continue
            for key, value in settings.items():
                path, plain = (group, key), literal is None or (group, key) in literal
                self.set(path, value, Origin(document.where(path), by), literal=plain)
                if isinstance(value, dict):  # so that a fault deep inside is told by its own line
                    below = (known for known in document.lines if known[:2] == path and len(known) > 2)
                    self.origins.update({deep: Origin(document.where(deep), by) for deep in below})

    def delete(self, override: Override) -> None:
        node: Any = self.data
        for key in override.key[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or override.key[-1] not in node:
            raise ConfigError(Problem(override.text, f"{override.name} is not set, so it cannot be removed", "drop it"))
        del node[override.key[-1]]
        self.forget(override.key)


def _group_document(group: str, choice: str, where: str, request: Request) -> Document:
    known = assets.choices(group, extra=request.config_dirs)
    if choice not in known:
        for other in GROUPS:
            if other != group and choice in assets.choices(other, extra=request.config_dirs):
                what = f"{choice} is a {other}= choice, not a {group}"
                raise ConfigError(Problem(where, what, f"ftcli train {other}={choice}"))
        raise ConfigError(Problem(where, f"{choice} is not a choice of {group}", suggest(choice, known, f"{group}=")))
    path = known[choice]
    shipped = path.is_relative_to(assets.CONFIGS)
    document = load(path, f"configs/{group}/{path.name}" if shipped else str(path))
    problems = recipe_loader.guard_values(document)
    if not shipped:
        problems += recipe_loader.guard_group_paths(document, group, path, allow_path="--allow-path" in request.grants)
    if group in DECLARED and choice not in DECLARED[group]:
        fix = f"name it {group}/NAME.yaml, NAME one of {', '.join(sorted(DECLARED[group]))}"
        problems.append(Problem(document.file, f"there is no {group} {choice} whose settings these could be", fix))
    if "defaults" in document.data:
        where = document.where(("defaults",))
        problems.append(Problem(where, "a group file holds settings only", "choose groups in a recipe's defaults"))
    if problems:
        raise ConfigError(*problems)
    return document


def _compose_groups(choices: Mapping[str, str], documents: Mapping[str, Document], root: Document) -> dict[str, Any]:
    """Let Hydra compose the chosen groups from plain data held in its ConfigStore."""
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store(name=ROOT_CONFIG, node={**root.data, "defaults": [*root.data["defaults"], *_NO_HYDRA_NODE, "_self_"]})
    for group, document in documents.items():
        store.store(group=group, name=choices[group], node=document.data)
    GlobalHydra.instance().clear()
    with initialize(version_base="1.3", config_path=None):
        config = compose(ROOT_CONFIG, overrides=[f"{group}={choice}" for group, choice in choices.items()])
    tree = OmegaConf.to_container(config, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _interpolate(tree: _Tree) -> dict[str, Any]:
    """The finished tree: `${a.b}` references replaced, then the literal values put in their places.

    Raises:
        ConfigError: a reference to nothing, or in a circle.
    """
    data = tree.data
    if "${" in json.dumps(data, default=str):
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            resolved = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", "") or "")
            origin = tree.origins.get(tuple(key.split(".")[:2]), Origin(key, "cli"))
            what = f"{key}: {str(error).splitlines()[0]}"
            raise ConfigError(Problem(origin.where, what, "refer to a setting that has a value")) from None
        assert isinstance(resolved, dict)
        data = {str(key): value for key, value in resolved.items()}
    for path, value in tree.literal.items():
        node = data
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    return data


def _split(request: Request, problems: list[Problem]) -> tuple[list[Override], dict[str, Override], Override | None]:
    """Overrides as (values, choices by group, recipe), faults collected."""
    values: list[Override] = []
    choices: dict[str, Override] = {}
    recipe = None
    for text in request.overrides:
        try:
            override = parse(text)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if override.key == ("recipe",) and not override.delete:
            recipe = override
        elif override.name in GROUPS:
            if override.delete:
                fix = (
                    f"{override.name}=none"
                    if override.name in ("peft", "quantisation")
                    else f"ftcli list {override.name}"
                )
                problems.append(Problem(text, f"a run cannot be without a {override.name}", fix))
            elif not isinstance(override.value, str):
                problems.append(Problem(text, "needs the name of a choice", f"ftcli list {override.name} shows them"))
            else:
                choices[override.name] = override
        else:
            values.append(override)
    return values, choices, recipe


def _read_recipe(override: Override, request: Request) -> recipe_loader.Recipe:
    path = recipe_loader.find(str(override.value), override.text)
    return recipe_loader.read(path, allow_path="--allow-path" in request.grants)


def _choose(
    root: Document, request: Request, recipe: recipe_loader.Recipe | None, chosen: Mapping[str, Override]
) -> dict[str, tuple[str, Origin]]:
    """The choice of each group with its origin: command line over recipe over earlier run over root."""
    found = {group: (choice, Origin("", "group")) for entry in root.data["defaults"] for group, choice in entry.items()}
    for group, choice in request.base_choices.items():
        found[group] = (choice, Origin(request.base_where, "run"))
    for index, (group, choice) in enumerate(recipe.choices.items() if recipe else ()):
        assert recipe is not None
        found[group] = (choice, Origin(recipe.where(("defaults", str(index))), "recipe"))
    for group, override in chosen.items():
        found[group] = (str(override.value), Origin(override.text, "cli"))
    return _implied(found)


def _implied(found: dict[str, tuple[str, Origin]]) -> dict[str, tuple[str, Origin]]:
    """With the quantisation that the adapter brings along, where nobody chose one."""
    peft = PEFT_METHODS.get(found["peft"][0])
    choice, origin = found["quantisation"]
    if peft and peft.implies and (origin.by == "group" or (origin.by == "run" and choice == "none")):
        found["quantisation"] = (peft.implies, Origin(found["peft"][1].where, "group"))
    return found


@contextlib.contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """A ConfigError raised inside joins the problems."""
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def _lay_groups(tree: _Tree, choices: Mapping[str, str], documents: Mapping[str, Document], root: Document) -> None:
    composed = _compose_groups(choices, documents, root)
    for group, document in documents.items():
        lines = {(group, *path): line for path, line in document.lines.items()}
        literal = frozenset((group, key) for key in recipe_loader.path_keys(group, document.data))
        tree.lay({group: composed[group]}, Document(document.file, {}, lines), "group", literal)
    rest = {key: value for key, value in composed.items() if key not in GROUPS}
    tree.lay(rest, root, "group")


def compose(request: Request) -> Composed:
    """Compose groups, recipe and command line into one plain tree.

    Raises:
        ConfigError: all problems of the files and of the overrides' form, at once.
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
    for group, (choice, origin) in picked.items():
        with _collected(problems):
            documents[group] = _group_document(group, choice, origin.where, request)
    if problems:
        raise ConfigError(*problems)
    choices = {group: choice for group, (choice, _) in picked.items()}
    tree = _Tree()
    _lay_groups(tree, choices, documents, root)
    if request.base is not None:  # a group chosen anew takes nothing over from the earlier run
        kept = {key: value for key, value in request.base.items() if key not in GROUPS or picked[key][1].by == "run"}
        tree.lay(kept, Document(request.base_where, {}, {}), "run", literal=None)  # a saved spec is plain data
    if recipe is not None:
        tree.lay(recipe.values, recipe.document, "recipe", recipe.literal)
    for override in values:
        with _collected(problems):
            _apply(tree, override)
    if problems:
        raise ConfigError(*problems)
    data = _interpolate(tree)
    origins: dict[KeyPath, Origin] = {**{(group,): origin for group, (_, origin) in picked.items()}, **tree.origins}
    return Composed(tree=data, choices=choices, origins=origins, request=request)


def _apply(tree: _Tree, override: Override) -> None:
    if override.delete:
        tree.delete(override)
        return
    if not override.literal and "${" in recipe_loader.REFERENCE.sub("", json.dumps(override.value)):
        fix = "only plain references like ${train.learning_rate} are allowed"
        raise ConfigError(Problem(override.text, "calls a resolver", fix))
    tree.set(override.key, override.value, Origin(override.text, "cli"), literal=override.literal)
