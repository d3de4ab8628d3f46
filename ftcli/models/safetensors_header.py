"""Counts the parameters of stored weights from the headers of safetensors files, without reading a tensor.

Format: eight bytes little-endian header length, then the header as JSON (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files

FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
# The format's own limit; a longer header is a damaged file.
MAX_HEADER_BYTES = 100_000_000


def stored_parameters(folder: Path) -> int | None:
    """Elements of all tensors in the folder's model*.safetensors; shared ones are stored, and so counted, once.

    None when there is no such file, one cannot be read, or weights are stored packed (quantised), where elements are
    not parameters.
    """
    files = sorted(folder.glob("model*.safetensors"))
    total = 0
    for file in files:
        header = _header(file)
        if header is None:
            return None
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            if tensor.get("dtype") not in FLOAT_TYPES:
                return None
            total += math.prod(tensor["shape"])
    return total if files else None


def require_own_weights(location: str) -> None:
    """Check that the weights of a model folder are files of the folder, or of the hub cache, as its index names them.

    Args:
        location: a folder, or a hub id, whose files the hub's own client keeps in the cache.

    Raises:
        ConfigError: the index names a file elsewhere, which would be read as weights.
    """
    folder = Path(location)
    problems = []
    for index in sorted(folder.glob("*.index.json")) if folder.is_dir() else ():
        try:
            named = set(foreign_files.read_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            problems.append(Problem(str(index), "is damaged", "save the model again"))
            continue
        for name in sorted(map(str, named)):
            inside = os.path.join(os.path.realpath(folder), "")
            # Links of the cache lead to its own blobs, beside the snapshots.
            if ".." in Path(name).parts or not os.path.join(inside, name).startswith(inside):
                what = f"names weights outside of its folder: {name}"
                problems.append(Problem(str(index), what, "take the model from its source again"))
    if problems:
        raise ConfigError(*problems)


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its tensors begin.

    Raises:
        OSError: it cannot be read.
        EOFError: it ends within its header.
        ValueError: what stands there is no header.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise EOFError(f"it has {size} bytes")
        header = foreign_files.parse_json(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("it is no object")
    return header, 8 + length


def _header(file: Path) -> dict[str, Any] | None:
    try:
        return read_header(file)[0]
    except (OSError, EOFError, ValueError):
        return None
