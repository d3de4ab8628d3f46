"""The files of a model as they are stored: its parameters counted from the headers of safetensors files, and whether
they are whole, by headers and sizes. No tensor is read, and no code runs.

Format: eight bytes little-endian header length, then the header as JSON (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.foreign_files import MAX_TOKENIZER_BYTES
from ftcli.models import sources

FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
# The format's own limit; a longer header is a damaged file.
MAX_HEADER_BYTES = 100_000_000
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_READ_AS_JSON = (
    sources.ADAPTER, "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "tokenizer.json",
)  # fmt: skip


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


def weight_fault(file: Path) -> str:
    """Why a safetensors file is not whole; "" where it is."""
    if not file.is_file():  # a pipe would be waited for
        return "is no file"
    try:
        size, (header, begin) = file.stat().st_size, read_header(file)
        ends = [_end_of(name, tensor) for name, tensor in header.items() if name != "__metadata__"]
    except EOFError as error:
        return f"is cut within its header: {error}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, LookupError, TypeError, AttributeError):
        return "has a header that is no safetensors header"
    due = begin + max(ends, default=0)
    return "" if size == due else f"has {size} bytes, and its header says {due}"


def _end_of(name: str, tensor: Any) -> int:
    """Where a tensor ends behind the header.

    Raises:
        ValueError: its bytes are not those that its shape takes.
    """
    start, end = tensor["data_offsets"]
    bits = _BITS.get(tensor["dtype"])  # a type that came later is taken at its word
    if not 0 <= start <= end or (bits is not None and (end - start) * 8 != math.prod(tensor["shape"]) * bits):
        raise ValueError(f"{name} has offsets that do not fit its shape")
    return int(end)


def model_faults(folder: Path) -> Iterator[str]:
    """What is wrong with the files of a model or an adapter, without its digests."""
    adapter = sources.is_adapter_folder(folder)
    expected = "adapter_model.safetensors" if adapter else "model*.safetensors"
    if not [*folder.glob(expected)]:
        yield f"{expected} is missing: there are no weights"
    yield from damaged(folder)
    needed = sources.ADAPTER if adapter else "config.json"
    if not os.path.lexists(folder / needed):
        yield f"{needed} is missing"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield "it has no tokenizer"


def damaged(folder: Path) -> Iterator[str]:
    """What is wrong with those files of a model or an adapter that are there."""
    for file in sorted(folder.glob("*.safetensors")):
        if fault := weight_fault(file):
            yield f"{file.name} {fault}"
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            named = sorted(set(map(str, foreign_files.read_json(index)["weight_map"].values())))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            yield f"{index.name} is no index of weights"
            continue
        yield from (f"{part} is missing ({index.name} names it)" for part in named if not (folder / part).is_file())
    for name in _READ_AS_JSON:
        if not os.path.lexists(folder / name):
            continue
        try:
            content = foreign_files.read_json(folder / name, MAX_TOKENIZER_BYTES)
        except (OSError, ValueError) as error:
            yield f"{name} cannot be read ({type(error).__name__})"
            continue
        if not isinstance(content, dict):
            yield f"{name} is no JSON object"
