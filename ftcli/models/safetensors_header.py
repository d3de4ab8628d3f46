"""Counts the parameters of stored weights from the headers of safetensors files, without reading a tensor.

Format: eight bytes little-endian header length, then the header as JSON (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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


def _header(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > MAX_HEADER_BYTES:
                return None
            header = foreign_files.parse_json(stream.read(length))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None
