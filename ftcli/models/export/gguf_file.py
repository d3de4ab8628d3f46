"""Reads what a GGUF file says of itself: its keys and values, and no tensor. The file may be a stranger's.

Format: llama.cpp's docs of GGUF, version 3 (and 2, which is read alike): magic, version, the numbers of tensors and of
keys, then each key with its type and value, all little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from ftcli.core.errors import ConfigError, Problem

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_BYTES, _MOST_ITEMS = 65_536, 64 * 2**20, 4 * 2**20
"""Of a file, of one text, and of one list: the longest known are some hundred, 100 KB and 300,000."""


def read_metadata(file: Path) -> dict[str, Any]:
    """The keys and values of a GGUF file; lists are lists, and text that is not UTF-8 keeps its bytes as escapes.

    Raises:
        ConfigError: it is no GGUF file, or a damaged one.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        try:
            if stream.read(4) != MAGIC:
                raise ConfigError(Problem(str(file), "is no GGUF file", "name one that llama.cpp's converter wrote"))
            version, _, count = *struct.unpack("<I", _bytes(stream, 4)), *struct.unpack("<QQ", _bytes(stream, 16))
            if version not in _VERSIONS or count > _MOST_KEYS:
                raise ValueError(f"version {version} with {count} keys")
            return {_text(stream): _value(stream, _number(stream, 4), 0) for _ in range(count)}
        except (ValueError, EOFError, KeyError, struct.error, RecursionError) as error:
            what = f"is a damaged GGUF file: {error}"
            raise ConfigError(Problem(str(file), what, "write it again with ftcli export")) from None


def _bytes(stream: BinaryIO, size: int) -> bytes:
    if size > _MOST_BYTES:
        raise ValueError(f"a value of {size} bytes")
    found = stream.read(size)
    if len(found) < size:
        raise EOFError("it ends within its header")
    return found


def _number(stream: BinaryIO, kind: int) -> Any:
    form = "<" + _NUMBERS[kind]
    return struct.unpack(form, _bytes(stream, struct.calcsize(form)))[0]


def _text(stream: BinaryIO) -> str:
    return _bytes(stream, _number(stream, 10)).decode("utf-8", "backslashreplace")


def _value(stream: BinaryIO, kind: int, depth: int) -> Any:
    if kind == _STRING:
        return _text(stream)
    if kind != _ARRAY:
        return _number(stream, kind)
    inner, count = _number(stream, 4), _number(stream, 10)
    if count > _MOST_ITEMS or depth > 2:
        raise ValueError(f"a list of {count} values")
    if inner in _NUMBERS:
        form = f"<{count}{_NUMBERS[inner]}"
        return list(struct.unpack(form, _bytes(stream, struct.calcsize(form))))
    return [_value(stream, inner, depth + 1) for _ in range(count)]
