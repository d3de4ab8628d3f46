"""A task of lm-evaluation-harness in a YAML file, read as a stranger's.

lm-evaluation-harness itself imports each function that such a file names (`!function`), loads metrics as code from the
hub, and takes data files from wherever the file says. So it is never given the file: what it gets is the plain data
that is read here, with every path made absolute and checked, and functions only with a grant of the command line.
Paths are those of the file's own folder, where lm-evaluation-harness would take those of the working directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ftcli.core import strict_yaml
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.suggest import suggest
from ftcli.settings.ownership import ALLOW_PATH, TASK_CODE

BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""What `dataset_path` names where `dataset_kwargs.data_files` lists the files."""
_DATA = frozenset({"data_files", "data_dir", "field", "sep", "delimiter", "revision", "column_names"})
"""The entries of dataset_kwargs that say which rows, and no more."""
_DROPPED = frozenset({"trust_remote_code"})
"""Entries of dataset_kwargs that do nothing any more, in files that others wrote."""
_CODE = {
    "class": "names a class to run",
    "custom_dataset": "names a function that makes the rows",
    "unsafe_code": "runs what the model writes",
    "use_prompt": "loads a prompt as code",
}
_HUB = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}|[\w-]{1,96}")
_DEEPEST = 8
"""Files that include each other."""


@dataclass(frozen=True)
class Function:
    """A Python function that a task names."""

    path: tuple[str, ...]
    """Where in the task."""
    name: str
    folder: str
    """Of the file that names it, whose modules are looked at first."""


@dataclass(frozen=True)
class Task:
    """A task to measure: one of lm-evaluation-harness by its name, or one of a file."""

    name: str
    data: str | None = None
    """A folder with its rows, in place of those that it names."""
    config: Mapping[str, Any] | None = None
    """What its file says; None for one of lm-evaluation-harness."""
    functions: tuple[Function, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For the request to a worker."""
        return asdict(self)


class _Function(str):
    """The scalar behind `!function`."""


class _Builder(strict_yaml.Builder):
    """Keeps the functions that a task names as text that is marked."""

    def tagged(self, event: Any, line: int) -> None:
        """Allow `!function` with a name, as lm-evaluation-harness does, and no other tag."""
        if event.tag != "!function" or not isinstance(event, yaml.ScalarEvent):
            raise self.fault(line, f"has a YAML tag ({event.tag}), which no task may have", "remove the tag")

    def collect(self, event: Any, line: int, depth: int) -> Any:
        """The node that starts with this event."""
        node = super().collect(event, line, depth)
        if getattr(event, "tag", None) == "!function":
            node.value = _Function(event.value)
        return node


def read_task(path: Path, grants: frozenset[str], rows: Mapping[str, str] | None = None) -> Task:
    """The task in a file.

    Args:
        grants: the flags of this command line.
        rows: folders by the name of the task whose rows they have, in place of those that it names.

    Raises:
        ConfigError: it cannot be read, is no task, or asks for something that was not granted.
    """
    config, functions, document = _merged(path, path.parent, grants)
    problems = [*_shape(config, document), *_code(config, functions, document, grants)]
    if problems:
        raise ConfigError(*problems)
    data = (rows or {}).get(config["task"])
    config = {**config, **_rows(config, document, grants, data)}
    return Task(str(config["task"]), data, config, tuple(functions))


def _merged(
    path: Path, root: Path, grants: frozenset[str], depth: int = 0
) -> tuple[dict[str, Any], list[Function], strict_yaml.Document]:
    """What a file says over what the files that it includes say, and the functions that are named."""
    document = strict_yaml.parse(strict_yaml.read_text(path, str(path)), str(path), _Builder)
    own = dict(document.data)
    config: dict[str, Any] = {}
    functions: dict[tuple[str, ...], Function] = {}
    included = own.pop("include", None) or []
    for name in included if isinstance(included, list) else [included]:
        where = document.where(("include",))
        if depth >= _DEEPEST:
            raise ConfigError(Problem(where, f"includes more than {_DEEPEST} files in each other", "include fewer"))
        if not isinstance(name, str) or isinstance(name, _Function):
            raise ConfigError(Problem(where, f"include is {name!r}, which is no file", "name a YAML file beside it"))
        below, theirs, _ = _merged(_inside(name, path.parent, root, where, grants), root, grants, depth + 1)
        config.update({key: value for key, value in below.items() if key != "task_list"})
        functions = _over(functions, below, theirs)
    functions = _over(functions, own, [*_functions(own, (), str(path.parent))])
    return {**config, **own}, [*functions.values()], document


def _over(
    before: Mapping[tuple[str, ...], Function], keys: Mapping[str, Any], own: list[Function]
) -> dict[tuple[str, ...], Function]:
    """The functions of two files, of which the later one's keys win."""
    return {path: each for path, each in before.items() if path[0] not in keys} | {each.path: each for each in own}


def _functions(value: Any, path: tuple[str, ...], folder: str) -> Iterator[Function]:
    if isinstance(value, _Function):
        yield Function(path, str(value), folder)
    elif isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from _functions(each, (*path, str(key)), folder)


def _shape(config: Mapping[str, Any], document: strict_yaml.Document) -> Iterator[Problem]:
    """What keeps a file from being one task."""
    if "group" in config or isinstance(config.get("task"), list):
        what, fix = "is a group of tasks", "name its tasks one by one: --tasks a.yaml,b.yaml"
        yield Problem(document.where(("group",)), what, fix)
    elif not isinstance(config.get("task"), str) or not re.fullmatch(r"[\w.+-]{1,100}", config["task"]):
        what = "names no task" if "task" not in config else f"task is {config['task']!r}, which is no name"
        yield Problem(document.where(("task",)), what, "task: NAME, in letters, digits, dots and dashes")
    metrics = config.get("metric_list")
    if metrics is not None and not (isinstance(metrics, list) and all(isinstance(each, dict) for each in metrics)):
        where = document.where(("metric_list",))
        yield Problem(where, "metric_list is no list of mappings", "metric_list: [{metric: exact_match}]")


def _code(
    config: Mapping[str, Any], functions: list[Function], document: strict_yaml.Document, grants: frozenset[str]
) -> Iterator[Problem]:
    """What would run code."""
    if TASK_CODE in grants:
        return
    fix = f"read it, then allow it with {TASK_CODE}, or remove it"
    for each in functions:
        name = ".".join(each.path)
        yield Problem(document.where(each.path), f"{name} runs the Python function {each.name}", fix)
    named = {each.path[0] for each in functions}
    for key, what in _CODE.items():
        if config.get(key) and key not in named:
            yield Problem(document.where((key,)), f"{key} {what}", fix)
    for index, each in enumerate(config.get("metric_list") or ()):
        if isinstance(each, dict) and each.get("hf_evaluate"):
            where = document.where(("metric_list", str(index)))
            yield Problem(where, "hf_evaluate loads a metric as code from the hub", fix)


def _rows(
    config: Mapping[str, Any], document: strict_yaml.Document, grants: frozenset[str], data: str | None
) -> dict[str, Any]:
    """Where the rows are, as absolute paths.

    Raises:
        ConfigError: outside the file's folder, without a grant; or nowhere.
    """
    if data is not None:
        return {"dataset_path": data, "dataset_kwargs": {}}
    folder = Path(document.file).parent
    options = config.get("dataset_kwargs") or {}
    at = document.where(("dataset_kwargs",))
    if not isinstance(options, dict):
        raise ConfigError(Problem(at, "dataset_kwargs is no mapping", "dataset_kwargs: {data_files: rows.jsonl}"))
    if odd := sorted(options.keys() - _DATA - _DROPPED):
        raise ConfigError(Problem(at, f"dataset_kwargs.{odd[0]} is not read here", suggest(odd[0], _DATA, "")))
    options = {key: value for key, value in options.items() if key not in _DROPPED}
    if "data_files" in options:
        options["data_files"] = _files(options["data_files"], folder, at, grants)
    if isinstance(options.get("data_dir"), str) and (folder / options["data_dir"]).exists():
        options["data_dir"] = str(_inside(options["data_dir"], folder, folder, at, grants))
    path, where = config.get("dataset_path"), document.where(("dataset_path",))
    if path is None or path in BUILDERS:
        if path is not None and "data_files" not in options:
            fix = "dataset_kwargs: {data_files: {test: rows.jsonl}}"
            raise ConfigError(Problem(where, f"dataset_path: {path} names no files", fix))
        return {"dataset_kwargs": options}
    if not isinstance(path, str):
        raise ConfigError(Problem(where, f"dataset_path is {path!r}, which is no path", "name a folder, or a hub id"))
    if os.path.lexists(folder / path) or path.startswith((".", "/", "~")):
        path = str(_inside(path, folder, folder, where, grants))
    elif not _HUB.fullmatch(path):
        raise ConfigError(Problem(where, f"{path} is neither a folder nor a hub id", "name a folder beside the file"))
    return {"dataset_path": path, "dataset_kwargs": options}


def _files(value: Any, folder: Path, where: str, grants: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {split: _files(each, folder, where, grants) for split, each in value.items()}
    if isinstance(value, list):
        return [_files(each, folder, where, grants) for each in value]
    if not isinstance(value, str):
        raise ConfigError(Problem(where, f"data_files names {value!r}, which is no file", "name files"))
    if "://" in value or "::" in value:
        raise ConfigError(Problem(where, f"data_files names the address {value}", "fetch it, then name the file"))
    return str(_inside(value, folder, folder, where, grants))


def _inside(name: str, folder: Path, root: Path, where: str, grants: frozenset[str]) -> Path:
    """A path that a file names, absolute.

    Raises:
        ConfigError: there is none, or it lies outside the folder of the task and that was not granted.
    """
    path = Path(os.path.realpath(folder / os.path.expanduser(name)))
    if not path.is_relative_to(os.path.realpath(root)) and ALLOW_PATH not in grants:
        fix = f"put it beside the task, or allow it with {ALLOW_PATH}"
        raise ConfigError(Problem(where, f"{name} lies outside the folder of the task", fix))
    if not path.exists():
        raise ConfigError(Problem(where, f"{name} does not exist", f"put it in {root}, or name another"))
    return path
