"""Where a spec's model and data are: built in, a local folder, a run of ours, or a hub id.

Used by both halves, so nothing here reads weights or rows.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftcli import rundir, tiny
from ftcli.data.locate import DataFile, SourcePath, is_local, locate
from ftcli.errors import ConfigError, Problem
from ftcli.methods.base import Method
from ftcli.settings import DataSettings, ModelSettings, SetSettings

BUILTIN = "builtin:tiny"
BUILTIN_SETS = "builtin:"
_DEEPEST_STACK = 64


def is_builtin(path: object) -> bool:
    """Whether a path means rows that are built in: builtin:tiny, or one of its sets by name."""
    return isinstance(path, str) and path.startswith(BUILTIN_SETS)


def builtin_name(path: str, method: Method) -> str:
    """The built-in set that a path means; builtin:tiny is the one of the method's task."""
    return method.task if path == BUILTIN else path.removeprefix(BUILTIN_SETS)


def set_file(path: str, part: str) -> str:
    """The file of a built-in set that is named by itself, of its "train" or "eval" part; any other path as it is."""
    return str(tiny.set_path(path.removeprefix(BUILTIN_SETS), part)) if is_builtin(path) else path


def absolute(path: str) -> str:
    """A path of this machine made absolute; a URL, a hub set and what is built in stay as they are."""
    return os.path.realpath(home_expanded(path)) if not is_builtin(path) and is_local(path) else path


def home_expanded(path: str) -> Path:
    """The path with a leading `~` replaced, or as it is where `~name` is nobody's home."""
    return Path(os.path.expanduser(path))


@dataclass(frozen=True)
class ModelSource:
    """What `model.name_or_path` means. Exactly one of `folder` and `hub_id` is set."""

    folder: Path | None = None
    hub_id: str | None = None
    is_adapter: bool = False
    """The folder holds a PEFT adapter; its weights stack on those of `base_of`."""

    @property
    def is_plausible(self) -> bool:
        """Whether it is a folder, or at least looks like a hub id."""
        return self.hub_id is None or re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", self.hub_id) is not None

    @property
    def location(self) -> str:
        """What from_pretrained takes."""
        return str(self.folder) if self.folder else str(self.hub_id)


def model_source(name_or_path: str) -> ModelSource | None:
    """The source of a model name, or None for a run or folder that holds no model."""
    if name_or_path == BUILTIN:
        return ModelSource(folder=tiny.MODEL_DIR)
    folder = home_expanded(name_or_path)
    run = rundir.find_run(name_or_path) if not os.path.isfile(folder / "config.json") else None
    if run is not None:
        folder = run / rundir.MODEL
    if os.path.isfile(folder / "adapter_config.json"):
        return ModelSource(folder=folder.resolve(), is_adapter=True)
    if os.path.isfile(folder / "config.json"):
        return ModelSource(folder=folder.resolve())
    if run is not None or os.path.exists(folder) or folder.is_absolute() or name_or_path.startswith("."):
        return None
    return ModelSource(hub_id=name_or_path)


def base_of(adapter: Path) -> str:
    """The model that an adapter folder stacks on, as its adapter_config.json names it.

    Raises:
        ConfigError: the file is damaged, or names none.
    """
    file = adapter / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise ConfigError(Problem(str(file), "names no base model", "set base_model_name_or_path, or save it again"))
    return base


def foundation(source: ModelSource) -> ModelSource | None:
    """The whole model at the bottom of a stack of adapters: the one with a config.json and weights.

    Raises:
        ConfigError: an adapter stands on itself, or names no base.
    """
    found, passed = source, set[Path]()
    while found.is_adapter:
        assert found.folder is not None
        if found.folder in passed:
            raise ConfigError(Problem(str(found.folder), "is an adapter that stands on itself", "name its base model"))
        passed.add(found.folder)
        below = model_source(base_of(found.folder))
        if below is None:
            return None
        found = below
    return found


def adapter_kinds(source: ModelSource) -> list[str]:
    """PEFT's type of each adapter between a model and its foundation, from the top.

    Raises:
        ConfigError: an adapter names no base.
    """
    found: list[str] = []
    below: ModelSource | None = source
    while below is not None and below.is_adapter and len(found) < _DEEPEST_STACK:
        assert below.folder is not None
        found.append(str(_json(below.folder / "adapter_config.json").get("peft_type")))
        below = model_source(base_of(below.folder))
    return found


def quantised_as(model: ModelSettings) -> str | None:
    """How the stored weights of a model are quantised already, as its config.json says (gptq, awq, fp8, mxfp4, …).

    Raises:
        ConfigError: an adapter names no base.
    """
    source = model_source(model.name_or_path)
    bottom = foundation(source) if source else None
    if bottom is None:
        return None
    folder = bottom.folder or cached_snapshot(str(bottom.hub_id), model.revision)
    declared = _json(folder / "config.json").get("quantization_config") if folder else None
    if not isinstance(declared, dict):
        return None
    kind = declared.get("quant_method")
    return str(kind) if kind else "bitsandbytes" if any(key.startswith("load_in_") for key in declared) else None


def head_of(folder: Path) -> str:
    """What the model or adapter of a folder puts out: "words", or a "score"."""
    if (folder / "adapter_config.json").is_file():
        return "score" if _json(folder / "adapter_config.json").get("task_type") == "SEQ_CLS" else "words"
    architectures = _json(folder / "config.json").get("architectures") or ()
    return "score" if any(str(name).endswith("ForSequenceClassification") for name in architectures) else "words"


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class RowSet:
    """One set of rows that a run reads."""

    name: str
    key: str
    """The setting that names it, as errors print it."""
    settings: SetSettings


def located(row_set: RowSet, where: str, *, fetch: bool) -> tuple[DataFile, ...] | None:
    """The files of a set in order; None where only the network would tell and `fetch` is false.

    Args:
        where: what named the set, as errors print it.

    Raises:
        ConfigError: there are none.
    """
    s = row_set.settings
    return locate(SourcePath(path=s.path, revision=s.revision, subset=s.subset, split=s.split), where, fetch=fetch)


def fetched(row_set: RowSet) -> tuple[DataFile, ...]:
    """The files of a set in order, looked for over the network if need be.

    Raises:
        ConfigError: there are none.
    """
    files = located(row_set, row_set.key, fetch=True)
    assert files is not None  # what is not known here has been looked for
    return files


def every_set(data: DataSettings, method: Method) -> list[RowSet]:
    """The sets that a run reads: those trained on, and the held-out one where there is one."""
    held_out = eval_set(data, method)
    return [*train_sets(data, method), *([held_out] if held_out else [])]


def train_sets(data: DataSettings, method: Method) -> tuple[RowSet, ...]:
    """The sets whose rows are trained on: one, or those of the mix."""
    if data.mix is not None:
        return tuple(
            RowSet(name=name, key=f"data.mix.{name}.path", settings=_of_mix(SetSettings(**settings), method))
            for name, settings in data.mix.items()
        )
    assert data.path is not None
    if is_builtin(data.path):
        own = SetSettings(path=str(tiny.set_path(builtin_name(data.path, method), "train")), **_of_builtin(data))
        return (RowSet(name="tiny", key="data.path", settings=own),)
    settings = SetSettings(
        path=data.path, revision=data.revision, subset=data.subset, split=data.split, **_written(data)
    )
    return (RowSet(name="data", key="data.path", settings=settings),)


def _of_mix(settings: SetSettings, method: Method) -> SetSettings:
    if not is_builtin(settings.path):
        return settings
    return replace(settings, path=str(tiny.set_path(builtin_name(settings.path, method), "train")))


def eval_set(data: DataSettings, method: Method) -> RowSet | None:
    """The set of held-out rows, or None where there is none (a share of the training rows may still be held out)."""
    path = data.eval_path
    if path is None and data.eval_share == 0 and data.mix is None and is_builtin(data.path):
        path = data.path  # its own held-out half
    if path is not None and is_builtin(path):
        if path != BUILTIN and builtin_name(path, method) not in tiny.set_names():
            return None  # told by the checks
        own = SetSettings(path=str(tiny.set_path(builtin_name(path, method), "eval")), **_of_builtin(data))
        return RowSet(name="eval", key="data.eval_path", settings=own)
    if data.eval_path is None:
        return None
    settings = SetSettings(path=data.eval_path, **_written(data))
    return RowSet(name="eval", key="data.eval_path", settings=settings)


def _of_builtin(data: DataSettings) -> dict[str, Any]:
    """What may be asked of the built-in sets too; how they are written is known."""
    return {name: getattr(data, name) for name in ("margin_column", "trained_turns")}


def _written(data: DataSettings) -> dict[str, Any]:
    """How rows are written and read, the same for those that are trained on and those that are held out."""
    return {name: getattr(data, name) for name in ("format", "columns", "roles", "margin_column", "trained_turns")}


def hub_cache() -> Path:
    """The folder of cached hub repositories, found as huggingface_hub finds it."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(home).expanduser() / "hub"


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The cached files of a hub model at a revision, or None where its config.json is not cached."""
    repository = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if os.path.isfile(reference) else revision or ""
    snapshot = repository / "snapshots" / commit
    return snapshot if commit and os.path.isfile(snapshot / "config.json") else None
