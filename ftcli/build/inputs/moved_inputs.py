"""A run's folder that was copied to another machine, where its author's paths lead nowhere.

Each file or folder that is not where the spec says is looked for beside the run: in its folder, in the one around it,
and in the working directory, by name. It is taken only if every byte that the run recorded of it is the same; else it
is asked for by its setting. A new run that starts so has the new path in its own spec.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftcli.build.inputs import run_inputs
from ftcli.core.errors import ConfigError, Problem
from ftcli.settings.groups import DataSettings, ModelSettings, is_path_key
from ftcli.settings.run_spec import Note, RunSpec

_GROUPS = ("model", "data", "method", "train", "peft")


def located(spec: RunSpec, run: Path, typed: Mapping[str, Any]) -> tuple[RunSpec, tuple[Note, ...]]:
    """The spec with each path that leads nowhere replaced by what was found beside the run, and a note on each.

    Args:
        typed: what the command line sets, by name; nothing is looked for in its place.

    Raises:
        ConfigError: something is not here, or what is here under its name is something else.
    """
    missing = {path: name for name, path in _paths(spec) if _is_gone(path)}
    known = run_inputs.recorded(run) if missing else None
    if not known:
        return spec, ()
    moved, problems, notes = dict[str, str](), list[Problem](), list[Note]()
    for path, name in missing.items():
        files = _recorded_of(path, known)
        if not files:
            continue
        if name in typed or name.partition(".")[0] in typed:
            notes += _of_typed(name, typed.get(name), files)
            continue
        here = _beside(path, run)
        same = [each for each in here if _is_same(each, files)]
        if same:
            moved[path] = same[0]
            notes.append(Note(name, same[0], "found beside the run, and the same byte for byte"))
            continue
        what = f"{name} of the run is not here: {path}"
        if here:
            what = f"{here[0]} has the name of the run's {name}, and is not what the run read"
        fix = f"put it beside the run, or say where it is: {name}=PATH"
        problems.append(Problem(str(run), what, fix))
    if problems and "recipe" not in typed:  # which may name other places, and is read later
        raise ConfigError(*problems)
    return _moved(spec, moved), tuple(notes)


def _paths(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """The absolute paths among a run's settings, with the setting's name."""
    values = asdict(spec)
    for group in _GROUPS:
        yield from _inside(group, values[group])
        yield from _inside(group, spec.tree.get(group, {}))


def _inside(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _inside(f"{name}.{key}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _inside(name, each)
    elif isinstance(value, str) and os.path.isabs(value) and is_path_key(name):
        yield name, value


def _is_gone(path: str) -> bool:
    return not os.path.lexists(path)


def _recorded_of(path: str, known: Mapping[str, run_inputs.Record]) -> dict[str, str]:
    """The digests of the files at or below a path, by their place below it ("" for the path itself)."""
    found = {}
    for each in known.values():
        file, digest = str(each.get("path")), each.get("digest")
        if isinstance(digest, str) and (file == path or file.startswith(os.path.join(path, ""))):
            found[file[len(path) :].lstrip(os.sep)] = digest
    return found


def _beside(path: str, run: Path) -> list[str]:
    """What has the name of a path in the places that are looked at."""
    name = os.path.basename(path.rstrip(os.sep))
    if name in ("", os.curdir, os.pardir):
        return []
    places = dict.fromkeys((run, run.parent, Path.cwd()))
    return [str(place.absolute() / name) for place in places if os.path.exists(place / name)]


def _is_same(path: str, files: Mapping[str, str]) -> bool:
    """Whether all that the run recorded is here, byte for byte."""
    for place, digest in files.items():
        file = os.path.join(path, place) if place else path
        inside = os.path.realpath(file).startswith(os.path.join(os.path.realpath(path), "")) or not place
        if not (inside and os.path.isfile(file)) or run_inputs.digest(file) != digest:
            return False
    return True


def _moved(spec: RunSpec, moved: Mapping[str, str]) -> RunSpec:
    """The spec with paths replaced, in its settings and in its tree."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: changed(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [changed(each) for each in value]
        return moved.get(value, value) if isinstance(value, str) else value

    if not moved:
        return spec
    groups = {group: changed(dict(getattr(spec, group))) for group in ("method", "train", "peft")}
    model, data = changed(asdict(spec.model)), changed(asdict(spec.data))
    tree = {**spec.tree, **{group: changed(spec.tree[group]) for group in _GROUPS if group in spec.tree}}
    return replace(spec, model=ModelSettings(**model), data=DataSettings(**data), tree=tree, **groups)


def _of_typed(name: str, given: Any, files: Mapping[str, str]) -> Iterator[Note]:
    """Whether what was typed in the place of a path that is gone is what the run read."""
    if isinstance(given, str) and os.path.exists(given):
        same = _is_same(given, files)
        yield Note(name, given, "what the run read, byte for byte" if same else "NOT what the run read: other bytes")
