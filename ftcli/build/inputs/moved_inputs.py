"""A run's folder that was copied to another machine, where its author's paths lead nowhere.

Each file or folder that is not where the spec says is looked for beside the run: in its folder, in the one around it,
and in the working directory, by name. It is taken only if every byte that the run recorded of it is the same; else it
is asked for by its setting. A new run that starts so has the new path in its own spec; a run that is resumed gets it in
its own, and takes what was typed only if it is the same too. What lay in a pipeline's own folder is in the copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.build.inputs import run_inputs
from ftcli.core.errors import ConfigError, Problem
from ftcli.runs import rundir
from ftcli.settings.groups import DataSettings, ModelSettings, is_path_key
from ftcli.settings.run_spec import Note, RunSpec

_GROUPS = ("model", "data", "method", "train", "peft")


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Where what a copied folder read lies now."""

    places: Mapping[str, str] = field(default_factory=dict)
    """The path that leads nowhere, and the one that was found for it."""
    notes: tuple[Note, ...] = ()
    typed: frozenset[str] = frozenset()
    """The settings whose typed value says only where something lies."""


def located(spec: RunSpec, run: Path, typed: Mapping[str, Any]) -> tuple[RunSpec, tuple[Note, ...]]:
    """The spec with each path that leads nowhere replaced by what was found beside the run, and a note on each.

    Args:
        typed: what the command line sets, by name; nothing is looked for in its place.

    Raises:
        ConfigError: something is not here, or what is here under its name is something else.
    """
    found = moved(spec, run, typed)
    return with_places(spec, found.places), found.notes


def moved(spec: RunSpec, run: Path, typed: Mapping[str, Any], *, resumes: bool = False) -> Moved:
    """Where what a run read lies now, as far as that is not where its spec says.

    Args:
        typed: what the command line sets, by name.
        resumes: what is typed says where something lies, and must be what the run read, byte for byte.

    Raises:
        ConfigError: something is not here, or what is here under its name is something else.
    """
    home = _home(spec, run)
    missing = {path: name for name, path in paths_of(spec) if is_gone(path) or _is_inside(path, home)}
    if not missing:
        return Moved()
    known = run_inputs.recorded(run) or {}
    around = (run.parent.parent,) if rundir.is_pipeline(run.parent) else ()
    places = (run, run.parent, *around, Path.cwd())
    return search(
        missing, known.values(), str(run), lambda path: [*_copied(path, home, run), *beside(path, places)],
        typed, resumes=resumes,
    )  # fmt: skip


def search(
    missing: Mapping[str, str],
    known: Iterable[run_inputs.Record],
    where: str,
    candidates: Callable[[str], list[str]],
    typed: Mapping[str, Any],
    *,
    resumes: bool,
) -> Moved:
    """Find what is not where it was, byte for byte as it was recorded.

    Args:
        missing: each path that leads nowhere, and the setting that it stands in.
        known: what was recorded of files.
        where: the folder that names them, for messages.
        candidates: what may be at a path's place now.

    Raises:
        ConfigError: something is not here, or what is here under its name is something else.
    """
    known = list(known)
    places, problems, notes, used = dict[str, str](), list[Problem](), list[Note](), set[str]()
    for path, name in missing.items():
        files = _recorded_of(path, known)
        if not files:
            continue
        given = typed.get(name)
        if resumes and isinstance(given, str):
            if os.path.exists(given) and _is_same(given, files):
                places[path] = os.path.realpath(given)
                notes.append(Note(name, given, "what the run read, byte for byte"))
                used.add(name)
            else:
                what = "is not what the run read" if os.path.exists(given) else "is not here"
                fix = f"name what it read, or start a new run with --from {where}"
                problems.append(Problem(f"{name}={given}", f"{what}; a resumed run needs what it began with", fix))
            continue
        if name in typed or name.partition(".")[0] in typed:
            notes += _of_typed(name, given, files)
            continue
        here = candidates(path)
        same = [each for each in here if _is_same(each, files)]
        if same:
            places[path] = same[0]
            notes.append(Note(name, same[0], "found beside the run, and the same byte for byte"))
            continue
        what = f"{name} of the run is not here: {path}"
        if here:
            what = f"{here[0]} has the name of the run's {name}, and is not what the run read"
        fix = f"put it beside the run, or say where it is: {name}=PATH"
        problems.append(Problem(where, what, fix))
    if problems and "recipe" not in typed:  # which may name other places, and is read later
        raise ConfigError(*problems)
    return Moved(places=places, notes=tuple(notes), typed=frozenset(used))


def adopt(run: Path, spec: RunSpec, places: Mapping[str, str]) -> RunSpec:
    """Write where what a run read lies now into its spec, and into what was recorded of it; its lock is held.

    Returns:
        The spec as it is written.
    """
    spec = with_places(spec, places)
    if os.path.isabs(str(spec.run.dir)):
        here = str(run.absolute())
        tree = {**spec.tree, "run": {**spec.tree.get("run", {}), "dir": here}}
        spec = replace(spec, run=replace(spec.run, dir=here), tree=tree)
    rundir.write_atomically(run / rundir.SPEC, spec.to_json())
    run_inputs.relocate(run, places)
    return spec


def copied_places(spec: RunSpec, run: Path) -> dict[str, str]:
    """The place in the copy of a pipeline of each path in the pipeline's own folder, whatever is there."""
    home = _home(spec, run)
    inside = [path for _, path in paths_of(spec) if _is_inside(path, home)]
    return {path: str(run.parent.absolute() / Path(path).relative_to(home)) for path in inside if home is not None}


def _home(spec: RunSpec, run: Path) -> Path | None:
    """Where the pipeline's folder lay that a stage was copied with; None for a run of its own, or where it still is."""
    was = Path(str(spec.run.dir))
    if not was.is_absolute() or not rundir.is_pipeline(run.parent) or was.parent == run.parent.absolute():
        return None
    return was.parent


def _is_inside(path: str, home: Path | None) -> bool:
    return home is not None and os.path.normpath(path) == path and Path(path).is_relative_to(home)


def _copied(path: str, home: Path | None, run: Path) -> list[str]:
    """The place in the copy of a pipeline of what lay in the pipeline's own folder."""
    if home is None or not _is_inside(path, home):
        return []
    place = run.parent.absolute() / Path(path).relative_to(home)
    return [str(place)] if place.exists() else []


def paths_of(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """The absolute paths among a run's settings, with the setting's name."""
    values = asdict(spec)
    for group in _GROUPS:
        yield from paths_inside(group, values[group])
        yield from paths_inside(group, spec.tree.get(group, {}))


def paths_inside(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The absolute paths in a setting, with the names of the settings that hold them."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from paths_inside(f"{name}.{key}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from paths_inside(name, each)
    elif isinstance(value, str) and os.path.isabs(value) and is_path_key(name):
        yield name, value


def is_gone(path: str) -> bool:
    """Whether a path leads nowhere."""
    return not os.path.lexists(path)


def _recorded_of(path: str, known: Iterable[run_inputs.Record]) -> dict[str, str]:
    """The digests of the files at or below a path, by their place below it ("" for the path itself)."""
    found = {}
    for each in known:
        file, digest = str(each.get("path")), each.get("digest")
        if isinstance(digest, str) and (file == path or file.startswith(os.path.join(path, ""))):
            found[file[len(path) :].lstrip(os.sep)] = digest
    return found


def beside(path: str, places: Iterable[Path]) -> list[str]:
    """What has the name of a path in the places that are looked at."""
    name = os.path.basename(path.rstrip(os.sep))
    if name in ("", os.curdir, os.pardir):
        return []
    return [str(place.absolute() / name) for place in dict.fromkeys(places) if os.path.exists(place / name)]


def _is_same(path: str, files: Mapping[str, str]) -> bool:
    """Whether all that the run recorded is here, byte for byte."""
    for place, digest in files.items():
        file = os.path.join(path, place) if place else path
        inside = os.path.realpath(file).startswith(os.path.join(os.path.realpath(path), "")) or not place
        if not (inside and os.path.isfile(file)) or run_inputs.digest(file) != digest:
            return False
    return True


def with_places(spec: RunSpec, places: Mapping[str, str]) -> RunSpec:
    """The spec with paths replaced, in its settings and in its tree."""
    if not places:
        return spec
    groups = {group: replaced(dict(getattr(spec, group)), places) for group in ("method", "train", "peft")}
    model, data = replaced(asdict(spec.model), places), replaced(asdict(spec.data), places)
    tree = {**spec.tree, **{group: replaced(spec.tree[group], places) for group in _GROUPS if group in spec.tree}}
    return replace(spec, model=ModelSettings(**model), data=DataSettings(**data), tree=tree, **groups)


def replaced(value: Any, places: Mapping[str, str]) -> Any:
    """A value with paths replaced in it."""
    if isinstance(value, Mapping):
        return {key: replaced(each, places) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(each, places) for each in value]
    return places.get(value, value) if isinstance(value, str) else value


def _of_typed(name: str, given: Any, files: Mapping[str, str]) -> Iterator[Note]:
    """Whether what was typed in the place of a path that is gone is what the run read."""
    if isinstance(given, str) and os.path.exists(given):
        same = _is_same(given, files)
        yield Note(name, given, "what the run read, byte for byte" if same else "NOT what the run read: other bytes")
