"""The cache of measured architectures, keyed by a model's configuration and the libraries that measured it.

A worker measures an architecture once (`ftcli/plan/measure.py` asks it); everything else only reads what is here. The
cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ftcli.core.code_digest import code_digest
from ftcli.core.paths import cache_folder
from ftcli.core.untrusted import foreign_files
from ftcli.models.layout import Layout
from ftcli.runs import rundir

_LIBRARIES = ("transformers", "torch", "peft")
_CODE = ("worker/models/architecture.py", "worker/models/packing_trial.py", "worker/models/two_layers.py")
# What a configuration says of the file, and not of the model.
_UNREAD = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")


def folder() -> Path:
    """Where measurements are kept: XDG_CACHE_HOME/ftcli/models, or ~/.cache/ftcli/models."""
    return cache_folder("models")


def entry(config: Mapping[str, Any]) -> Path:
    """The file of a configuration's measurement."""
    read = {key: value for key, value in config.items() if key not in _UNREAD}
    text = json.dumps([read, _versions(), code_digest(*_CODE)], sort_keys=True, default=str)
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def kept(config: Mapping[str, Any]) -> Layout | str | None:
    """The layout of a configuration; why it has none; or None where nobody has measured it yet."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        answer = foreign_files.read_json(entry(config))
        return str(answer["reason"]) if "reason" in answer else Layout.from_data(answer["layout"])
    return None


def keep(config: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Store a worker's answer; a cache that cannot be written is no error."""
    file = entry(config)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_atomically(file, json.dumps(answer))


@cache
def _versions() -> list[str]:
    from importlib import metadata  # takes as long as a help screen, and most models are in a table

    return [metadata.version(name) for name in _LIBRARIES]
