"""Where a spec's model is: built in, a local folder, an ftcli run, or a hub id.

Used by both halves, so nothing here reads weights.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli import tiny
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.hub_cache import cached_snapshot, is_revision
from ftcli.core.paths import BUILTIN, UNNAMED, home_expanded
from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings

ADAPTER = "adapter_config.json"
_IMPORTED = "megatron_config"
"""With it PEFT imports the module that `megatron_core` names, whatever that is."""
_DEEPEST_STACK = 64
_EMBEDDINGS = re.compile(r"\.(?!\w*pos)(?:\w*emb\w*|wte)\.weight\Z")
_HEAD_BYTES = 100 * 2**20  # the format's own bound


@dataclass(frozen=True)
class ModelSource:
    """What `model.name_or_path` refers to. Exactly one of `folder` and `hub_id` is set."""

    folder: Path | None = None
    hub_id: str | None = None
    is_adapter: bool = False
    """The folder holds a PEFT adapter; its weights stack on those of `base_of`."""

    @property
    def is_plausible(self) -> bool:
        """Whether it is a folder, or at least looks like a hub id, or is still to be named."""
        looks = re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", self.hub_id or "") is not None
        return looks or self.hub_id in (None, UNNAMED)

    @property
    def location(self) -> str:
        """What from_pretrained takes."""
        return str(self.folder) if self.folder else str(self.hub_id)


def model_source(name_or_path: str) -> ModelSource | None:
    """The source of a model name, or None for a run or folder that holds no model."""
    if name_or_path == BUILTIN:
        return ModelSource(folder=tiny.MODEL_DIR)
    if name_or_path == UNNAMED:
        return ModelSource(hub_id=UNNAMED)
    folder = home_expanded(name_or_path)
    run = rundir.find_run(name_or_path) if not os.path.isfile(folder / "config.json") else None
    if run is not None:
        folder = run / rundir.MODEL
    if os.path.isfile(folder / ADAPTER):
        return ModelSource(folder=folder.resolve(), is_adapter=True)
    if os.path.isfile(folder / "config.json"):
        return ModelSource(folder=folder.resolve())
    if run is not None or os.path.exists(folder) or folder.is_absolute() or name_or_path.startswith("."):
        return None
    return ModelSource(hub_id=name_or_path)


def resolved_source(name_or_path: str) -> ModelSource:
    """The source of a model name.

    Raises:
        ConfigError: a run or folder that holds no model, or a model that is still to be named.
    """
    require_named(name_or_path, "model.name_or_path")
    source = model_source(name_or_path)
    if source is None:
        what = f"{name_or_path} holds no model"
        raise ConfigError(Problem("model.name_or_path", what, "name a finished run, a model folder or a hub id"))
    return source


def require_named(name: str, key: str) -> None:
    """Check that a setting names a model.

    Raises:
        ConfigError: it is still to be named.
    """
    if name == UNNAMED:
        what = f"{UNNAMED} stands for a model that is still to be named"
        raise ConfigError(Problem(key, what, f"{key}=MODEL: a hub id, a model folder or a finished run"))


def is_model_folder(name: str) -> bool:
    """Whether a name is that of a folder with a model in it, which may lie in a run's folder."""
    return any(os.path.isfile(home_expanded(name) / file) for file in (ADAPTER, "config.json"))


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return os.path.isfile(folder / ADAPTER)


def base_of(adapter: Path) -> str:
    """The model that an adapter folder stacks on, as its configuration names it.

    Raises:
        ConfigError: the file is damaged, or names none.
    """
    base = adapter_declares(adapter).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        fix = "set base_model_name_or_path, or save it again"
        raise ConfigError(Problem(str(adapter / ADAPTER), "names no base model", fix))
    return base


def adapter_declares(folder: Path) -> dict[str, Any]:
    """What the adapter in a folder declares; the folder may be a stranger's.

    Raises:
        ConfigError: the file is damaged, or would have PEFT import a module.
    """
    file = folder / ADAPTER
    declared = _json(file)
    if declared.get(_IMPORTED):
        what = f"names a module to import ({_IMPORTED}), which no adapter may ask for"
        raise ConfigError(Problem(str(file), what, f"remove {_IMPORTED}, or take another adapter"))
    for name in ("base_model_name_or_path", "revision", "peft_type"):
        if not isinstance(declared.get(name, ""), str | None):
            raise ConfigError(Problem(str(file), f"has {name}={declared[name]!r}, which is not text", "save it again"))
    if declared.get("revision") is not None and not is_revision(declared["revision"]):
        what = f"has revision={declared['revision']!r}, which is no branch, tag or commit"
        raise ConfigError(Problem(str(file), what, "save it again"))
    return declared


def foundation(source: ModelSource) -> ModelSource | None:
    """The whole model at the bottom of a stack of adapters: the one with a config.json and weights.

    Raises:
        ConfigError: an adapter is its own base, or names none.
    """
    bottom, passed = source, set[Path]()
    while bottom.is_adapter:
        assert bottom.folder is not None
        if bottom.folder in passed:
            what = "is an adapter that is its own base model"
            raise ConfigError(Problem(str(bottom.folder), what, "set base_model_name_or_path"))
        passed.add(bottom.folder)
        below = model_source(base_of(bottom.folder))
        if below is None:
            return None
        bottom = below
    return bottom


def foundation_of(name_or_path: str) -> ModelSource:
    """The whole model at the bottom of what a name stands for.

    Raises:
        ConfigError: it holds no model, or a base below it is no longer where it was trained.
    """
    if (bottom := foundation(resolved_source(name_or_path))) is None:
        what = f"a base below {name_or_path} is no longer where its adapter_config.json says"
        fix = "put it back, or name its new place there (base_model_name_or_path)"
        raise ConfigError(Problem("model.name_or_path", what, fix))
    return bottom


def adapter_kinds(source: ModelSource) -> list[str]:
    """PEFT's type of each adapter between a model and its foundation, from the top.

    Raises:
        ConfigError: an adapter names no base.
    """
    types: list[str] = []
    below: ModelSource | None = source
    while below is not None and below.is_adapter and len(types) < _DEEPEST_STACK:
        assert below.folder is not None
        types.append(str(adapter_declares(below.folder).get("peft_type")))
        below = model_source(base_of(below.folder))
    return types


def rows_of_adapters(source: ModelSource) -> int:
    """How many rows of the embeddings the adapters between a model and its foundation reach; 0 if they have none of
    their own. An adapter that added tokens has them beside its base.

    Raises:
        ConfigError: an adapter names no base.
    """
    found, depth = 0, 0
    below: ModelSource | None = source
    while below is not None and below.is_adapter and depth < _DEEPEST_STACK:
        assert below.folder is not None
        found, depth = max(found, _rows_of(below.folder)), depth + 1
        below = model_source(base_of(below.folder))
    return found


def _rows_of(folder: Path) -> int:
    """The rows of the embeddings that one adapter has, by its config and the head of its weights."""
    indices = adapter_declares(folder).get("trainable_token_indices") or {}
    listed = indices.values() if isinstance(indices, dict) else [indices]
    numbers = [each for several in listed if isinstance(several, list) for each in several if type(each) is int]
    found = max((each + 1 for each in numbers), default=0)
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        return found
    with (
        suppress(OSError, ValueError, LookupError, TypeError, struct.error, AttributeError),
        weights.open("rb") as file,
    ):
        [size] = struct.unpack("<Q", file.read(8))
        for name, each in foreign_files.parse_json(file.read(min(size, _HEAD_BYTES))).items():
            if _EMBEDDINGS.search(name):  # trained whole
                found = max(found, int(each["shape"][0]))
    return found


def declared_quantisation(model: ModelSettings) -> dict[str, Any] | None:
    """The `quantization_config` in the config.json of the model at the bottom of a stack; None where there is none.

    Raises:
        ConfigError: an adapter names no base.
    """
    config = _stored_config(model)
    text = config.get("text_config")
    declared = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    return declared if isinstance(declared, dict) else None


def is_multimodal(model: ModelSettings) -> bool:
    """Whether the checkpoint at the bottom of a stack has a text model inside it, of which alone a run loads the
    weights; False also where its config.json is not on this machine.

    Raises:
        ConfigError: an adapter names no base.
    """
    return isinstance(_stored_config(model).get("text_config"), dict)


def _stored_config(model: ModelSettings) -> dict[str, Any]:
    """The config.json of the model at the bottom of a stack; {} where there is none on this machine."""
    source = model_source(model.name_or_path)
    bottom = foundation(source) if source else None
    if bottom is None:
        return {}
    folder = bottom.folder or cached_snapshot(str(bottom.hub_id), model.revision)
    return _json(folder / "config.json") if folder else {}


def head_of(folder: Path) -> str:
    """The head of the model or adapter in a folder: "causal_lm", or "reward_model" (a sequence classifier)."""
    if (folder / ADAPTER).is_file():
        classifies = adapter_declares(folder).get("task_type") == "SEQ_CLS"
    else:
        named = _json(folder / "config.json").get("architectures")
        architectures = named if isinstance(named, list) else []
        classifies = any(str(name).endswith("ForSequenceClassification") for name in architectures)
    return "reward_model" if classifies else "causal_lm"


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none."""
    try:
        content = foreign_files.read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
