"""What a run read when it began: rows, models, and other files that its settings name, each with a fingerprint.

A resumed run must go on with the rows and weights that it began with: another order of rows, or other weights under the
same adapter, would make a model that no single command could make again. RUN/inputs.json holds, for each file, size,
time of change and a digest. A file up to 16 MiB is always read again; a larger one only where its size or time differ.
The digest of a file above 1 GiB covers its size and 256 evenly spread blocks of 1 MiB, the first and last among them. A
remote file is identified by the size and version tag that its store gives, a hub repository by its commit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftcli.core import hub_cache
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.module_source import function_source, is_file_of_code
from ftcli.core.paths import is_builtin
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data import row_sets
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.fingerprint import fingerprint
from ftcli.data.files.urls import is_url
from ftcli.methods import get_method
from ftcli.methods.method import further_models
from ftcli.models import sources
from ftcli.models.templates.chat_template import template_file
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec

READ_AGAIN_BYTES = 16 * 2**20
WHOLE_BYTES = 2**30
BLOCK_BYTES, _BLOCKS = 2**20, 256
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_MOST_SHOWN = 20

Record = Mapping[str, Any]
"""One file: its path, and `size`, `mtime_ns` and `digest`, or `version` for what is not a local file."""


def record(spec: RunSpec, run: Path) -> None:
    """Write inputs.json; what is not on this machine yet is left out, until `complete` adds it.

    Raises:
        ConfigError: a remote file cannot be accessed.
        DataError: a local one cannot be read.
    """
    found = {name: identified(path) for name, path in files_of(spec)}
    write(run, found)


def write(run: Path, files: Mapping[str, Record]) -> None:
    """Write inputs.json: what is recorded of each file, by setting and name."""
    rundir.write_json(run / rundir.INPUTS, {"schema": rundir.SCHEMAS[rundir.INPUTS], "files": files})


def complete(spec: RunSpec, run: Path) -> None:
    """Add the files that the worker downloaded."""
    known = recorded(run)
    if known is None:
        return
    with suppress(ConfigError, OSError):
        added = {name: identified(path) for name, path in files_of(spec) if name not in known}
        if added:
            write(run, {**known, **added})


def relocate(folder: Path, places: Mapping[str, str]) -> None:
    """Write where files lie now that were recorded elsewhere: at these paths, or below them."""
    known = recorded(folder)
    if known is None:
        return
    files = {}
    for name, each in known.items():
        old = next((old for old in places if f"{each.get('path')}{os.sep}".startswith(os.path.join(old, ""))), None)
        path = str(each.get("path")) if old is None else places[old] + str(each["path"])[len(old) :]
        files[name] = {**each, "path": path} if "path" in each else dict(each)
    write(folder, files)


def require_unchanged(spec: RunSpec, run: Path, *, remote: bool = True) -> str:
    """Check that a run that is resumed reads what it began with. Changes nothing.

    Args:
        remote: also ask the stores of remote files for their versions.

    Returns:
        What could not be checked, for the user; "" where everything was.

    Raises:
        ConfigError: names each file that differs.
    """
    known = recorded(run)
    if known is None:
        return "it began before ftcli recorded what a run reads, so its rows and models are not compared"
    now = dict(files_of(spec))
    problems = [
        _problem(name, str(each.get("path")), what, run)
        for name, each in known.items()
        if (remote or not is_url(str(each.get("path")))) and (what := _difference(each, now.get(name)))
    ]
    sets = {name.partition(":")[0] for name in known if name.startswith("data.")}
    for name, path in now.items():
        if name not in known and name.partition(":")[0] in sets:
            problems.append(_problem(name, path, "was not there when the run began", run))
    if problems:
        left = len(problems) - _MOST_SHOWN
        more = [Problem(str(run), f"and {left} more files differ")] if left > 0 else []
        raise ConfigError(*problems[:_MOST_SHOWN], *more)
    return ""


def changed(known: Mapping[str, Record], now: Iterable[tuple[str, str]]) -> list[str]:
    """Which of these files, as (name, path), are not what was recorded of them; of some nothing was."""
    return [name for name, path in now if name in known and _difference(known[name], path)]


def _problem(name: str, path: str, what: str, run: Path) -> Problem:
    setting = name.partition(":")[0]
    fix = f"put it back as it was, or start a new run with ftcli train --from {shell_word(run)}"
    return Problem(path, f"{what} ({setting}); a resumed run needs what it began with", fix)


def recorded(run: Path) -> dict[str, Record] | None:
    """The files in inputs.json; None where there is no such file.

    Raises:
        ConfigError: it is damaged.
    """
    file = run / rundir.INPUTS
    if not file.is_file():
        return None
    try:
        content = foreign_files.read_json(file)
        rundir.require_known_schema(file, content)
        files = content["files"]
        if all(isinstance(each, dict) for each in files.values()):
            return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    fix = f"start a new run with ftcli train --from {shell_word(run)}"
    raise ConfigError(Problem(str(file), "is damaged, so what the run began with is not known", fix))


def _difference(known: Record, path: str | None) -> str:
    """What is different about a file; "" for nothing."""
    if path is None or ("digest" in known and not os.path.isfile(path)):
        return "is not there any more"
    if "digest" not in known:
        return "" if identified(path) == dict(known) else "is another version than when the run began"
    state = os.stat(path)
    same = (state.st_size, state.st_mtime_ns) == (known.get("size"), known.get("mtime_ns"))
    if same and state.st_size > READ_AGAIN_BYTES:
        return ""
    return "" if digest(path) == known["digest"] else "has changed since the run began"


def identified(path: str) -> dict[str, Any]:
    """One file as inputs.json records it."""
    if is_url(path):
        return {"path": path, "version": fingerprint(DataFile(path=path, name=path.partition("?")[0]))}
    if not os.path.isfile(path):
        return {"path": path.partition("@")[0], "version": path.partition("@")[2]}
    state = os.stat(path)
    return {"path": path, "size": state.st_size, "mtime_ns": state.st_mtime_ns, "digest": digest(path)}


def digest(path: str) -> str:
    """Hex sha256 of a local file; above 1 GiB of its size and of blocks spread over it."""
    size = os.path.getsize(path)
    if size <= WHOLE_BYTES:
        return fingerprint(DataFile(path=path, name=path))
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        for number in range(_BLOCKS):
            handle.seek((size - BLOCK_BYTES) * number // (_BLOCKS - 1))
            found.update(handle.read(BLOCK_BYTES))
    return found.hexdigest()


def files_of(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Each file that a run reads, as (setting:name, path); a hub repository as (setting, ID@COMMIT).

    Left out is what is not on this machine.
    """
    method = get_method(str(spec.method["name"]))
    for each in row_sets.every_set(spec.data, method):
        for number, file in enumerate(row_sets.located(each, each.key, fetch=False) or ()):
            # By its place in the set, so that the set may be reached by another path.
            base, name = each.settings.path, file.name
            if isinstance(base, list):
                name = f"{number} {os.path.basename(file.path)}"  # files of several folders may have one name
            elif os.path.isfile(base):
                name = os.path.basename(base)
            elif os.path.isdir(base) and not is_url(file.path):
                name = os.path.relpath(file.path, base)
            yield f"{each.key}:{name}", file.path
    yield from files_of_model("model.name_or_path", spec.model.name_or_path, spec.model.revision)
    for key, name, _ in further_models(spec.method):
        yield from files_of_model(f"method.{key}", name, None)
    if (named := spec.model.chat_template) is not None and (template := template_file(named)) is not None:
        yield f"model.chat_template:{template.name}", str(template)
    if (kept := spec.run.retention) is not None and not is_builtin(kept):
        yield f"run.retention:{os.path.basename(kept)}", kept
    for group in ("method", "train", "peft"):
        yield from _named(group, getattr(spec, group))


def files_of_model(key: str, name: str, revision: str | None) -> Iterator[tuple[str, str]]:
    """The files of a model, and of the models below it where it is an adapter."""
    source = sources.model_source(name)
    if source is None:
        return
    if source.folder is None:
        if snapshot := hub_cache.cached_snapshot(str(source.hub_id), revision):
            yield f"{key}:{source.hub_id}", f"{source.hub_id}@{snapshot.name}"
        return
    for file in sorted(source.folder.iterdir()):
        if file.suffix in MODEL_SUFFIXES and file.is_file():
            yield f"{key}:{file.name}", str(file)
    if source.is_adapter:
        yield from files_of_model(f"{key}.base", sources.base_of(source.folder), None)


def _named(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The files that a group's settings name: reward code, chat templates, principles, DeepSpeed and FSDP configs."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _named(key, name)
            yield from _named(f"{key}.{name}" if str(name).isidentifier() else key, each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _named(key, each)
    elif isinstance(value, str) and (path := _file_of(value)):
        yield f"{key}:{os.path.basename(path)}", path


def _file_of(value: str) -> str:
    """The file that a value names, also that of file.py:function and package.module:function; "" for none."""
    module, separator, function = value.rpartition(":")
    dotted = separator and all(part.isidentifier() for part in (*module.split("."), function))
    code = function_source(value)[1] if dotted or (separator and is_file_of_code(module)) else None
    for path in (value, str(code or "")):
        # A word such as `cosine` names no file, even where there is one of that name.
        if path and len(path) < 4096 and ("." in path or os.sep in path):
            with suppress(OSError, ValueError):
                if os.path.isfile(path):
                    return os.path.abspath(path)
    return ""
