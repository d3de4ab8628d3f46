"""What a recipe, or the folder of a run, pipeline or model, would read, write, send and run, without doing any of it.

`ftcli recipe inspect` shows it. Settings are looked up in the table of fields; nothing is composed, downloaded or
loaded but the files that say it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftcli.config import reach, recipe_file
from ftcli.config.credentials import masked, masked_values
from ftcli.core import assets
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.paths import UNNAMED, is_builtin
from ftcli.core.plugins import plugin_loading
from ftcli.core.strict_yaml import load
from ftcli.core.untrusted import foreign_files
from ftcli.data.files.locate import is_hub
from ftcli.data.files.urls import is_url
from ftcli.models import sources
from ftcli.models.stored_files import require_own_weights
from ftcli.runs import rundir
from ftcli.settings.backends import ENDPOINTS, ROLES
from ftcli.settings.fields.field_row import FieldRow, Reach
from ftcli.settings.fields.own_fields import BACKEND
from ftcli.settings.groups import MODEL_KEYS, is_rows_key
from ftcli.settings.ownership import ALLOW_PATH, REMOTE_CODE
from ftcli.settings.run_spec import RunSpec
from ftcli.synthesis.synthesis_spec import FILE, SynthesisSpec

KINDS: tuple[Reach, ...] = ("reads", "writes", "sends", "runs")
_SHOWN = 200
"""Characters of a value that are shown."""


@dataclass(frozen=True, kw_only=True)
class Touch:
    """One thing that would be touched."""

    kind: Reach
    setting: str
    """The setting, or the file, that says so."""
    what: str
    """What is touched, in plain words."""
    flag: str = ""
    """The flag that it needs."""


@dataclass
class Inspection:
    """What something would touch, and why it may not."""

    subject: str
    touches: list[Touch] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def flags(self) -> list[str]:
        """The flags of the command line without which it would be refused."""
        return sorted({touch.flag for touch in self.touches if touch.flag})

    def to_data(self) -> dict[str, Any]:
        """As plain data, by kind."""
        by_kind = {str(kind): [asdict(each) for each in self.touches if each.kind == kind] for kind in KINDS}
        problems = [asdict(each) for each in self.problems]
        found: dict[str, Any] = {"subject": self.subject, **by_kind, "flags": self.flags, "problems": problems}
        told: dict[str, Any] = masked_values(found)
        return told


def of_recipe(path: Path, shown: str = "") -> Inspection:
    """What a recipe would touch.

    Raises:
        ConfigError: it is no plain recipe.
    """
    found = Inspection(f"recipe {shown or path}")
    recipe = recipe_file.read(path, allow_path=True)
    try:
        recipe_file.read(path)
    except ConfigError as error:
        found.problems += error.problems
        outside = [Touch(kind="reads", setting=each.where, what=each.what, flag=ALLOW_PATH) for each in error.problems]
        found.touches += outside
    for prefix, part in (("", recipe), *((f"stages.{name}.", part) for name, part in recipe.stages.items())):
        values: dict[str, Any] = {**part.values}
        for group, choice in part.choices.items():
            values[group] = _of_choice(group, choice) | dict(values.get(group) or {})
        _add(found, values, prefix)
        if part.ready:
            found.touches.append(Touch(kind="reads", setting=f"{prefix}model", what=_model(part.ready)))
    _searched(found, (recipe.sweep or {}).get("space"))
    _always(found, recipe.values.get("run"))
    return _called(found, path, shown) if shown else found


def _searched(found: Inspection, space: Any) -> None:
    """What the values of a search would touch, each where it is tried."""
    for key, values in space.items() if isinstance(space, dict) else ():
        for value in values if isinstance(values, list) else ():
            group, _, name = str(key).partition(".")
            own = {name: value} if name else _of_choice(group, value) if isinstance(value, str) else {}
            _add(found, {group: own}, "sweep.space: ")


def _called(found: Inspection, path: Path, shown: str) -> Inspection:
    """The inspection of a recipe that was copied to a file of this machine, told by its own name."""

    def told(text: str) -> str:
        return text.replace(str(path), shown).replace(str(path.resolve().parent), "its folder")

    touches = [replace(each, setting=told(each.setting), what=told(each.what)) for each in found.touches]
    problems = [replace(each, where=told(each.where), what=told(each.what)) for each in found.problems]
    return Inspection(found.subject, touches, problems)


def of_folder(folder: Path) -> Inspection:
    """What the folder of a run, a pipeline, a stage, a model or an adapter would touch.

    Raises:
        ConfigError: it is none of these, or damaged.
    """
    if rundir.is_run(folder):
        found = Inspection(f"run {folder}")
        _require_own_files(found, folder)
        if found.problems and (folder / rundir.SPEC).is_symlink():
            raise ConfigError(*found.problems)
        spec = RunSpec.load(folder / rundir.SPEC)
        _add(found, {name: value for name, value in asdict(spec).items() if isinstance(value, dict)}, "")
        _always(found, {"dir": str(folder)})
        for name, what in spec.plugins.items():
            flag = "" if what.startswith("package ") else f"{plugin_loading.FLAG} DIR"
            found.touches.append(Touch(kind="runs", setting="plugins", what=f"the plugin {name} ({what})", flag=flag))
        return found
    if rundir.is_pipeline(folder):
        found = Inspection(f"pipeline {folder}")
        for name, stage in rundir.read_pipeline(folder)["stages"].items():
            _add(found, stage.get("tree") or {}, f"stages.{name}.")
            made = (stage.get("make") or {}).get("values", {})
            _add(found, _nested(made), f"stages.{name}.")
        _always(found, {"dir": str(folder)})
        return found
    if (folder / FILE).is_file():
        found, stage_spec = Inspection(f"stage {folder}"), SynthesisSpec.load(folder / FILE)
        _add(found, {stage_spec.role: asdict(stage_spec.backend)}, "")
        return found
    if (folder / "config.json").is_file() or sources.is_adapter_folder(folder):
        return _of_model(folder)
    what = "holds no run, pipeline, stage, model or adapter"
    raise ConfigError(Problem(str(folder), what, "name such a folder, or a recipe"))


def _of_model(folder: Path) -> Inspection:
    found = Inspection(f"model {folder}")
    reads = Touch(kind="reads", setting=str(folder), what="weights, tokenizer and configuration of the folder")
    found.touches.append(reads)
    try:
        require_own_weights(str(folder))
        if sources.is_adapter_folder(folder):
            base = sources.base_of(folder)
            found.touches.append(Touch(kind="reads", setting=sources.ADAPTER, what=f"its base model: {_model(base)}"))
    except ConfigError as error:
        found.problems += error.problems
    for name in ("config.json", "tokenizer_config.json"):
        try:
            content = foreign_files.read_json(folder / name)
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("auto_map"):
            what = "Python code of the folder, which is left out without the flag"
            found.touches.append(Touch(kind="runs", setting=f"{name}: auto_map", what=what, flag=REMOTE_CODE))
    return found


def _require_own_files(found: Inspection, folder: Path) -> None:
    try:
        rundir.require_own_files(folder)
    except ConfigError as error:
        found.problems += error.problems


def _always(found: Inspection, settings: Any) -> None:
    """What every run touches."""
    where = settings.get("dir") if isinstance(settings, Mapping) else None
    what = f"the run directory: {where or 'runs/NAME/TIME'}"
    if not any(each.setting == "run.dir" for each in found.touches):
        found.touches.append(Touch(kind="writes", setting="run.dir", what=what))


def _of_choice(group: str, choice: str) -> dict[str, Any]:
    """The settings of a shipped choice; {} where there is none, which checking reports."""
    known = assets.choices(group)
    return dict(load(known[choice]).data) if choice in known else {}


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by dotted name → by group."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, _, key = name.partition(".")
        if key:
            found.setdefault(group, {})[key] = value
    return found


def _add(found: Inspection, groups: Mapping[str, Any], prefix: str) -> None:
    for name, value, row in (*reach.touched(groups), *_of_backends(groups)):
        for kind in KINDS:
            if kind in row.reaches and not (kind == "runs" and row.guarded):
                what, flag = _what(name, value, kind), row.grant if kind != "reads" else ""
                found.touches.append(Touch(kind=kind, setting=f"{prefix}{name}", what=what, flag=flag))


def _of_backends(groups: Mapping[str, Any]) -> Iterator[tuple[str, Any, FieldRow]]:
    for role in ROLES:
        settings = groups.get(role)
        if not isinstance(settings, Mapping):
            continue
        sends = settings.get("type") in ENDPOINTS
        for key, value in settings.items():
            row = BACKEND.get(key)
            if row is not None and value is not None and (sends or key == "model") and row.reaches:
                yield f"{role}.{key}", value, row


_PLAINLY = {
    "train.push_to_hub": "the finished model to the hub, with your token",
    "train.hub_always_push": "every save to the hub, with your token",
    "model.trust_remote_code": "Python code that the model ships",
}
"""Switches, whose value says nothing."""


def _what(name: str, value: Any, kind: Reach) -> str:
    if name in _PLAINLY:
        return _PLAINLY[name]
    if is_rows_key(name):
        return "; ".join(map(_rows, value if isinstance(value, list) else [value]))
    if name in MODEL_KEYS and isinstance(value, str):
        return _model(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    words = {"sends": "to", "writes": "to", "runs": "code of"}.get(kind, "")
    return masked(f"{words} {text}".strip())[:_SHOWN]


def _rows(value: Any) -> str:
    text = str(value)
    if is_builtin(text):
        return f"built-in rows: {text}"
    if text == UNNAMED:
        return "rows that are still to be named"
    kind = "an address" if is_url(text) else "a data set of the hub" if is_hub(text) else "files"
    return masked(f"{kind}: {text}")


def _model(name: str) -> str:
    if is_builtin(name):
        return f"the built-in model: {name}"
    if name == UNNAMED:
        return "a model that is still to be named"
    source = sources.model_source(name)
    if source is None:
        return masked(f"a folder without a model: {name}")
    return f"a folder: {source.folder}" if source.folder is not None else masked(f"a model of the hub: {name}")


def lines(found: Inspection) -> Iterable[str]:
    """The inspection for a person."""
    titles = {"reads": "would read", "writes": "would write", "sends": "would send", "runs": "would run"}
    yield found.subject
    for kind in KINDS:
        own = [each for each in found.touches if each.kind == kind]
        yield f"  {titles[kind]}{'' if own else ' nothing'}"
        for each in own:
            yield f"    {each.setting}: {each.what}{f'  (needs {each.flag})' if each.flag else ''}"
    yield f"  flags that it needs: {' '.join(found.flags) or 'none'}"
    for problem in found.problems:
        yield f"  {problem.where}  {problem.what}"
