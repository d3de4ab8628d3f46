"""Whether the files of a model folder are whole, from their headers and sizes: nothing is loaded and no code runs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.foreign_files import MAX_TOKENIZER_BYTES
from ftcli.models import sources
from ftcli.models.safetensors_header import read_header

_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_READ_AS_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


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
    files = sorted(folder.glob("*.safetensors"))
    expected = "adapter_model.safetensors" if adapter else "model*.safetensors"
    if not [file for file in files if file.match(expected)]:
        yield f"{expected} is missing: there are no weights"
    for file in files:
        if fault := weight_fault(file):
            yield f"{file.name} {fault}"
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            named = sorted(set(map(str, foreign_files.read_json(index)["weight_map"].values())))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            yield f"{index.name} is no index of weights"
            continue
        yield from (f"{part} is missing ({index.name} names it)" for part in named if not (folder / part).is_file())
    yield from _of_text_files(folder, adapter)


def _of_text_files(folder: Path, adapter: bool) -> Iterator[str]:
    """Of configuration and tokenizer."""
    needed = sources.ADAPTER if adapter else "config.json"
    for name in dict.fromkeys((needed, *_READ_AS_JSON, "tokenizer.json")):
        file = folder / name
        if not os.path.lexists(file):
            if name == needed:
                yield f"{name} is missing"
            continue
        try:
            content = foreign_files.read_json(file, MAX_TOKENIZER_BYTES)
        except (OSError, ValueError) as error:
            yield f"{name} cannot be read ({type(error).__name__})"
            continue
        if not isinstance(content, dict):
            yield f"{name} is no JSON object"
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield "it has no tokenizer"
