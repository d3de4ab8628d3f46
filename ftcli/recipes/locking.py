"""Making a recipe's lock from a run, and holding a run of the recipe to it, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, python_version
from typing import Any

from ftcli.build import gate
from ftcli.build.inputs import run_inputs
from ftcli.config import recipe_file
from ftcli.config.compose import Request
from ftcli.config.overrides import parse
from ftcli.core import hub_cache
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data.files import hub_sets
from ftcli.data.files.locate import is_hub
from ftcli.recipes import outcome, recipe_lock
from ftcli.recipes.recipe_lock import Lock
from ftcli.runs import rundir
from ftcli.settings.ownership import ALLOW_PATH
from ftcli.settings.run_spec import RunSpec

_GROUPS = ("model", "data", "quantisation", "method", "peft", "train", "seed")
"""What decides the result, beside the threads of a CPU."""
ANSWERS = ".answers"
"""Of a stage that asks an endpoint, in the name of what it answered. Without it the endpoint is asked again."""
_FREE = ("run.dir", "run.name")
"""What may be set beside a locked recipe."""


def of_run(recipe: Path, spec: RunSpec, run: Path) -> Lock:
    """The lock of a recipe from a finished run of it.

    Args:
        spec: the recipe, composed and checked here.

    Raises:
        ConfigError: the run is not finished, or not one of this recipe, or what it read has changed since.
    """
    made = gate.opened(run)
    known = run_inputs.recorded(run)
    if known is None:
        what = "it began before ftcli recorded what a run reads"
        raise ConfigError(Problem(str(run), what, f"train it anew: ftcli train --from {shell_word(run)}"))
    if problems := [*other_settings(deciding(spec), deciding(made), run), *other_files(spec, known, run)]:
        raise ConfigError(*problems)
    return Lock(
        recipe=identity(recipe),
        settings={**threads_of(run), **revisions(spec)},
        files={name: entry(path) for name, path in sorted(files_of(spec))},
        machine=machine_of(run, made),
        grants=grants(recipe, gate.flags_needed(spec)),
        outcome=outcome.of_run(run),
    )


def identity(recipe: Path) -> dict[str, str]:
    """A recipe, as its lock has it."""
    return {"name": recipe.name, "sha256": outcome.file_digest(recipe)}


def machine_of(run: Path, made: RunSpec) -> dict[str, Any]:
    """What a run ran on and with."""
    with rundir.stored(run):
        environment = foreign_files.read_json(run / rundir.ENVIRONMENT)
        packages = {str(name): str(each) for name, each in environment["packages"].items()}
        about = {"python": str(environment["python"]), "machine": str(environment["machine"])}
    return {"device": made.launch.device, **about, "packages": packages}


def threads_of(run: Path) -> dict[str, int]:
    """The threads of a run on a CPU, as a setting: sums depend on them bit for bit."""
    launch = gate.opened(run).launch
    fixed = launch.device == "cpu" and launch.num_threads is not None
    return {"hardware.num_threads": int(launch.num_threads or 0)} if fixed else {}


def grants(recipe: Path, flags: Iterable[str]) -> tuple[str, ...]:
    """The flags without which a recipe is refused: those of its runs, and that of its paths."""
    needed = set(flags)
    try:
        recipe_file.read(recipe)
    except ConfigError:
        needed.add(ALLOW_PATH)
    return tuple(sorted(needed))


def revisions(spec: RunSpec) -> dict[str, str]:
    """The commits of the model and the rows that come from the hub, as settings."""
    found: dict[str, str] = {}
    for name, path in run_inputs.files_of(spec):
        if name.startswith("model.name_or_path:") and (commit := commit_of(path)):
            found["model.revision"] = commit
    rows = spec.data.path
    if isinstance(rows, str) and is_hub(rows) and (set_id := hub_sets.hub_id(rows)):
        snapshot = hub_sets.cached_dataset(set_id, spec.data.revision)
        if snapshot is not None and recipe_lock.COMMIT.fullmatch(snapshot.name):
            found["data.revision"] = snapshot.name
    return found


def commit_of(path: str) -> str:
    """The commit in ID@COMMIT, which stands for a hub repository; "" for a file."""
    commit = path.rpartition("@")[2]
    return commit if not os.path.isfile(path) and recipe_lock.COMMIT.fullmatch(commit) else ""


def files_of(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """What a run reads, by setting and name; of a hub repository its commit, and each file of it that is here."""
    yield from with_files_of_hub(run_inputs.files_of(spec))


def with_files_of_hub(files: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Files by setting and name; of a hub repository its commit, and each file of it that is here."""
    for name, path in files:
        yield name, path
        if commit := commit_of(path):
            snapshot = hub_cache.cached_snapshot(path.rpartition("@")[0], commit)
            for file in sorted(snapshot.iterdir()) if snapshot is not None else ():
                if file.suffix in run_inputs.MODEL_SUFFIXES and file.is_file():
                    yield f"{name}@{file.name}", str(file)


def entry(path: str) -> dict[str, Any]:
    """One file, as a lock has it."""
    if os.path.isfile(path):
        return {"sha256": outcome.file_digest(Path(path)), "size": os.path.getsize(path)}
    return {"version": str(run_inputs.identified(path)["version"])}


def other_settings(own: Mapping[str, Any], other: Mapping[str, Any], run: Path) -> Iterator[Problem]:
    """Settings of the recipe that are not those of the run; both as `deciding` gives them."""
    for name in sorted(own.keys() | other.keys()):
        if own.get(name) != other.get(name):
            what = f"{name} is {own.get(name)!r} in the recipe, and was {other.get(name)!r} in the run"
            fix = f"lock a run of this recipe, or print the run's: ftcli recipe save {shell_word(run)}"
            yield Problem(str(run), what, fix)


def deciding(spec: RunSpec) -> dict[str, Any]:
    """The settings that decide the result, by dotted name, without where files lie: their digests say what they are."""
    whole = asdict(spec)
    found: dict[str, Any] = {}
    for group in _GROUPS:
        values = whole[group]
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            found[f"{group}.{key}" if key else group] = placeless(value)
    for revision in ("model.revision", "data.revision"):  # which the lock itself sets
        found.pop(revision)
    return found


def placeless(value: Any) -> Any:
    """A value with each absolute path replaced by its last part."""
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value)
    if isinstance(value, Mapping):
        return {key: placeless(each) for key, each in value.items()}
    return [placeless(each) for each in value] if isinstance(value, (list, tuple)) else value


def other_files(spec: RunSpec, known: Mapping[str, Mapping[str, Any]], run: Path) -> Iterator[Problem]:
    """Files of the recipe that are not what the run read."""
    fix = f"put it back as it was, or lock another run than {shell_word(run)}"
    now = dict(run_inputs.files_of(spec))
    for name, path in now.items():
        if name not in known:
            yield Problem(path, f"({name}) was not read by the run", fix)
    for name, each in known.items():
        if name not in now:
            yield Problem(str(each.get("path")), f"({name}) was read by the run, and is not here", fix)
            continue
        mark = "digest" if "digest" in each else "version"
        if run_inputs.identified(now[name]).get(mark) != each[mark]:
            yield Problem(now[name], f"({name}) has changed since the run read it", fix)


def pinned(request: Request, recipe: Path, lock: Lock) -> Request:
    """The request of a locked recipe with the settings that its lock adds.

    Raises:
        ConfigError: the recipe was changed, something else is set beside it, or a grant is missing.
    """
    problems = []
    for override in map(parse, request.overrides):
        if override.name not in ("recipe", *_FREE):
            what = "is set beside a locked recipe, which is run as it is"
            problems.append(Problem(override.text, what, "write it in the recipe and lock that, or leave out the lock"))
    if outcome.file_digest(recipe) != lock.recipe["sha256"]:
        fix = "get it again from where it came, or lock a run of the changed recipe: ftcli recipe lock"
        problems.append(Problem(str(recipe), "the recipe has changed since it was locked", fix))
    if missing := sorted(set(lock.grants) - request.grants):
        what = f"the locked run was granted {' '.join(missing)}, which counts on each command line anew"
        fix = f"see ftcli recipe inspect {shell_word(recipe)}, then give the flags"
        problems.append(Problem(str(recipe_lock.place(recipe)), what, fix))
    if problems:
        raise ConfigError(*problems)
    added = tuple(f"{name}={value}" for name, value in lock.settings.items())
    return replace(request, overrides=(*request.overrides, *added))


def require_locked(spec: RunSpec, lock: Lock) -> None:
    """Check that a run reads what is locked, every byte of it.

    Raises:
        ConfigError: names each file that differs.
    """
    require_files(dict(files_of(spec)), lock)


def require_files(now: Mapping[str, str], lock: Lock) -> None:
    """Check that files, by the names that a lock gives them, are what is locked.

    Raises:
        ConfigError: names each file that differs.
    """
    problems = []
    fix = "get what was locked, or lock a run with the new one: ftcli recipe lock"
    for name, locked in lock.files.items():
        setting = name.partition(":")[0]
        path = now.get(name)
        if path is None and (_comes_by_commit(name, lock, now) or setting.endswith(ANSWERS)):
            continue
        if path is None:
            problems.append(Problem(name, f"is locked, and is not here ({setting})", fix))
        elif entry(path) != dict(locked):
            problems.append(Problem(path, f"differs from what is locked as {name}", fix))
    problems += [
        Problem(path, f"is read, and is not in the lock ({name})", fix)
        for name, path in now.items()
        if name not in lock.files
    ]
    if problems:
        raise ConfigError(*problems)


def _comes_by_commit(name: str, lock: Lock, now: Mapping[str, str]) -> bool:
    """Whether a locked file is of a hub model that is not here yet, and that will be had at the locked commit."""
    repository = name.partition("@")[0]
    setting = repository.partition(":")[0]
    group = next((setting.removesuffix(end) for end in (".name_or_path", ".model") if setting.endswith(end)), "")
    return (
        f"{group}.revision" in lock.settings and "version" in lock.files.get(repository, {}) and repository not in now
    )


def other_packages(lock: Lock) -> list[str]:
    """The packages whose versions here are not the locked ones, in words."""
    found = []
    pinned_ones = {**lock.machine["packages"], "python": lock.machine.get("python")}
    for name, locked in pinned_ones.items():
        here = python_version() if name == "python" else _version(name)
        if here != locked:
            found.append(f"{name} {locked} is locked, and {here or 'none'} is here")
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return None


def same_bits(device: str, lock: Lock) -> bool:
    """Whether a run here must be the locked one bit for bit: on a CPU of the same kind, with the same packages."""
    alike = lock.machine.get("device") == device == "cpu" and lock.machine.get("machine") == machine()
    return alike and not other_packages(lock)
