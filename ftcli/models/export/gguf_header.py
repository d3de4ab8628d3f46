"""The head of a GGUF file: its metadata, and where its tensors are. Nothing else is read, and nothing is run.

The format (version 2 and 3): magic, version, the counts of tensors and of keys; then the keys with typed values, then
for each tensor its name, shape, type and offset. The file may be a stranger's, so every count and length is bounded by
what is left of the file and of a budget, and every fault is one error.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ftcli.core.errors import ConfigError, Problem

MAGIC = b"GGUF"
MOST_BYTES = 256 << 20
"""Of a head: a vocabulary of 262,144 entries with its merges takes some 15 MiB."""
MOST_ITEMS = 16 << 20
"""Values in all arrays together."""
MOST_TENSORS = 1 << 20
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_SHAPES = 4

TENSOR_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""ggml's types by number, as far as weights are stored in them."""
MIXTURES: Mapping[int, str] = {
    10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M",
    18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M",
}  # fmt: skip
"""llama.cpp's mixtures of types by number (llama_ftype). A tensor with rows that a type does not divide gets a wider
one, so that most of a small model written as Q4_K_M may be stored as Q5_0."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file."""

    shape: tuple[int, ...]
    """The fastest dimension first, as ggml counts."""
    type: str
    offset: int
    """In the file, in bytes."""


@dataclass(frozen=True)
class GgufHeader:
    """The head of a file."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def get(self, key: str, kind: type) -> Any:
        """The value of a key, or None where it is missing or of another kind."""
        found = self.metadata.get(key)
        return found if isinstance(found, kind) and not (kind is int and isinstance(found, bool)) else None

    @property
    def architecture(self) -> str:
        """llama, qwen3, gemma3, …"""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def weight_type(self) -> str:
        """The type in which most of the weights of layers are stored."""
        sizes: dict[str, int] = {}
        for each in self.tensors.values():
            if len(each.shape) > 1:
                count = 1
                for size in each.shape:
                    count *= size
                sizes[each.type] = sizes.get(each.type, 0) + count
        return max(sizes, key=lambda name: sizes[name]) if sizes else "nothing"

    @property
    def mixture(self) -> str:
        """The mixture of types that it says it was written as, such as Q4_K_M; "" for a single type."""
        return MIXTURES.get(self.get("general.file_type", int) or 0, "")


class _Reader:
    """Reads values one after the other, within a budget."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left, self._items = stream, min(size, MOST_BYTES), MOST_ITEMS
        self.at = 0

    def raw(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError("it says that more follows than there is")
        self._left -= count
        self.at += count
        found = self._stream.read(count)
        if len(found) != count:
            raise ValueError("it ends within its head")
        return found

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.raw(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.raw(self.scalar("<Q")).decode("utf-8", "backslashreplace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth > 2:
            raise ValueError(f"it has a value of unknown type {kind}")
        of, count = self.scalar("<I"), self.scalar("<Q")
        self._items -= count
        if self._items < 0:
            raise ValueError("it has more values than any model's")
        if of in _SCALARS:
            form = _SCALARS[of]
            return [each for (each,) in struct.iter_unpack(form, self.raw(count * struct.calcsize(form)))]
        return [self.value(of, depth + 1) for _ in range(count)]


def gguf_header(file: Path) -> GgufHeader:
    """The head of a GGUF file.

    Raises:
        ConfigError: it cannot be read, or is damaged.
    """
    try:
        about = os.stat(file)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        with open(file, "rb") as stream:
            return _header(stream, about.st_size)
    except OSError as error:
        raise ConfigError(Problem(str(file), f"cannot be read: {error.strerror}", "name a GGUF file")) from None
    except (ValueError, struct.error, MemoryError) as error:
        what = f"is no GGUF file, or a damaged one: {error}"
        raise ConfigError(Problem(str(file), what, "export it again")) from None


def _header(stream: BinaryIO, size: int) -> GgufHeader:
    reader = _Reader(stream, size)
    if reader.raw(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = reader.scalar("<I")
    if version not in (2, 3):
        raise ValueError(f"it has version {version}, and 2 and 3 are known")
    tensors, keys = reader.scalar("<Q"), reader.scalar("<Q")
    if tensors > MOST_TENSORS or keys > MOST_TENSORS:
        raise ValueError("it has more tensors or keys than any model")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        name = reader.text()
        metadata[name] = reader.value(reader.scalar("<I"))
    found = {}
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.scalar("<I")
        if dimensions > _SHAPES:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(reader.scalar("<Q") for _ in range(dimensions))
        kind, offset = reader.scalar("<I"), reader.scalar("<Q")
        found[name] = (shape, TENSOR_TYPES.get(kind, f"type {kind}"), offset)
    step = metadata.get("general.alignment", 32)
    step = step if isinstance(step, int) and step > 0 else 32
    start = -(-reader.at // step) * step
    return GgufHeader(
        metadata, {name: GgufTensor(shape, kind, start + at) for name, (shape, kind, at) in found.items()}
    )
