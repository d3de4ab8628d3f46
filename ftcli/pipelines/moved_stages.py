"""A pipeline's folder that was copied: what its stages read is found beside it, or asked for by name once.

As for the folder of a run (build/inputs/moved_inputs.py), by the digests that pipeline and stages recorded. What one
stage took from another is in the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.build.inputs import moved_inputs, run_inputs
from ftcli.build.inputs.moved_inputs import Moved
from ftcli.runs import rundir
from ftcli.settings.backends import BackendSettings
from ftcli.settings.groups import GROUPS, is_path_key
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

Entries = Mapping[str, Mapping[str, Any]]
"""Each stage as pipeline.json has it."""
Say = Callable[[str], None]


def moved(folder: Path, entries: Entries, typed: Mapping[str, Any], *, resumes: bool) -> Moved:
    """Where what the stages read lies now, as far as that is not where pipeline.json says.

    Args:
        typed: what the command line sets, by name.
        resumes: what is typed says where something lies, and must be what was recorded, byte for byte.

    Raises:
        ConfigError: something is not here, or what is here under its name is something else.
    """
    named: dict[str, list[str]] = {}
    for stage, kept in entries.items():
        for path, setting in _paths(kept):
            if moved_inputs.is_gone(path):
                named.setdefault(path, []).append(f"stages.{stage}.{setting}")
    if not named:
        return Moved()
    own, missing = dict[str, Any](), dict[str, str]()
    for path, names in named.items():
        given = {name: each for name in names for each in _typed_for(name, typed)}
        missing[path] = next(iter(given), names[0])
        own |= given
    places = (folder, folder.parent, Path.cwd())
    known = [each for place in (folder, *(folder / stage for stage in entries)) for each in _recorded(place)]
    return moved_inputs.search(
        missing, known, str(folder), lambda path: moved_inputs.beside(path, places), own, resumes=resumes
    )


def _paths(kept: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The absolute paths in a stage's entry, each with its setting."""
    values = {group: kept.get("tree", {}).get(group, {}) for group in GROUPS}
    for group, settings in values.items():
        for name, path in moved_inputs.paths_inside(group, settings):
            yield path, name
    for name, value in kept.get("make", {}).get("values", {}).items():
        if isinstance(value, str) and Path(value).is_absolute() and is_path_key(name):
            yield value, name
    if kept.get("ready") and Path(kept["ready"]).is_absolute():
        yield kept["ready"], "model"


def _typed_for(name: str, typed: Mapping[str, Any]) -> Iterator[Any]:
    """What the command line sets in the place of a stage's setting: for that stage or for all, or its whole group."""
    _, stage, setting = name.split(".", 2)
    for known in (name, setting):
        if known in typed:
            yield typed[known]
            return
    group = setting.partition(".")[0]
    if group in typed or f"stages.{stage}.{group}" in typed:
        yield None


def _recorded(place: Path) -> Iterator[run_inputs.Record]:
    yield from (run_inputs.recorded(place) or {}).values()


def with_places(entries: Entries, places: Mapping[str, str]) -> dict[str, Any]:
    """The stages with paths replaced."""
    found = {}
    for stage, kept in entries.items():
        changed = {
            name: moved_inputs.replaced(kept[name], places) for name in ("tree", "make", "ready") if name in kept
        }
        found[stage] = {**kept, **changed}
    return found


def adopt(folder: Path, entries: Entries, found: Moved, say: Say) -> None:
    """Write into a copied pipeline where what its stages read lies here; its lock is held.

    Raises:
        ConfigError: what a stage took from another is not what it was, or a stage is in use.
    """
    of_stages = {stage: _of_stage(folder / stage, found) for stage in entries if rundir.is_run(folder / stage)}
    for stage, places in of_stages.items():
        if places:
            with rundir.exclusive(folder / stage):
                moved_inputs.adopt(folder / stage, gate.composed_anew(folder / stage), places)
    for stage in entries:
        if (folder / stage / FILE).is_file():
            made = SynthesisSpec.load(folder / stage / FILE)
            here = replace(rows_as_here(made, found, Path(made.dir).parent, folder), dir=str(folder / stage))
            if here != made:
                rundir.write_atomically(folder / stage / FILE, here.to_json())
    if found.places:  # the last, so that all is found again where this is killed
        for note in found.notes:
            say(f"{folder}: {note.key} is {note.value} here ({note.why})")
        run_inputs.relocate(folder, found.places)
        state = rundir.read_pipeline(folder)
        rundir.write_json(folder / rundir.PIPELINE, {**state, "stages": with_places(state["stages"], found.places)})


def _of_stage(place: Path, found: Moved) -> dict[str, str]:
    """Where what a stage read lies now: what was found for the pipeline, and what lies in its folder.

    Raises:
        ConfigError: what it took from another stage is not what it was.
    """
    spec = gate.composed_anew(place)
    outside = {path: found.places[path] for _, path in moved_inputs.paths_of(spec) if path in found.places}
    here = moved_inputs.with_places(spec, outside)
    return {**outside, **moved_inputs.moved(here, place, {}, resumes=True).places}


def as_here(spec: RunSpec, place: Path, found: Moved) -> RunSpec:
    """The spec of a stage that ran elsewhere, with its paths as they are here, to be compared with a new one."""
    return moved_inputs.with_places(spec, {**found.places, **moved_inputs.copied_places(spec, place)})


def rows_as_here(spec: SynthesisSpec, found: Moved, home: Path, folder: Path) -> SynthesisSpec:
    """The spec of a synthesis stage that ran elsewhere, with its paths as they are here.

    Args:
        home: where the pipeline's folder lay.
        folder: where it lies now.
    """
    taken = {name: name.replace(str(home), str(folder), 1) for name in (spec.rows, str(spec.backend.model))}
    inside = {name: here for name, here in taken.items() if Path(name).is_relative_to(home) and ".." not in name}
    values = moved_inputs.replaced(asdict(spec), {**found.places, **inside})
    return replace(spec, **{**values, "backend": BackendSettings(**values["backend"])})
