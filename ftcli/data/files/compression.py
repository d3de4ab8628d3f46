"""The bytes of a local or remote data file, checked to be what its name says and decompressed while they are read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from typing import IO, Any, cast

from ftcli.core.errors import DataError, Problem
from ftcli.data.files import object_stores
from ftcli.data.files.file_types import CODECS, DataFile, codec_of, kind_of
from ftcli.data.files.urls import is_url

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""What the codecs raise for a damaged archive, in addition to OSError."""
_BUFFER_BYTES = 1 << 20
_MAGIC_BYTES = 64
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed data, and the compression."""
_BINARY = ("parquet", "arrow")
_POINTER = b"version https://git-lfs"
_NOT_TEXT = {
    b"PAR1": ("is a parquet file by its first bytes", "end its name with .parquet"),
    b"ARROW1": ("is an Arrow file by its first bytes", "end its name with .arrow"),
    b"PK\x03\x04": ("is a zip archive or a spreadsheet by its first bytes", "unpack it, or save the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("is an Office file by its first bytes", "save the sheet as CSV (UTF-8)"),
    b"%PDF-": ("is a PDF by its first bytes", "save its text as .txt or .jsonl"),
    b"<!doctype html": ("is a web page, not data", "download the file itself"),
    b"<html": ("is a web page, not data", "download the file itself"),
    _POINTER: ("is a pointer of Git LFS, not the data", "fetch the data: git lfs pull"),
}
"""First bytes of what is no text with rows, whatever the name says: what it is, and the remedy."""


class _Zstd(io.RawIOBase):
    """Decompressed zstandard (RFC 8878), of one frame or several; the standard library lacks it before Python 3.14."""

    def __init__(self, packed: IO[bytes]) -> None:
        pyarrow = importlib.import_module("pyarrow")
        self._packed = packed
        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._stream.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._packed.close()
        super().close()


def _packed(file: DataFile) -> IO[bytes]:
    if is_url(file.path):
        return io.BufferedReader(object_stores.open_raw(file), _BUFFER_BYTES)
    return open(file.path, "rb")


def _check_content(file: DataFile, raw: IO[bytes], codec: str | None) -> None:
    """Compare the first bytes with the compression and the type that the name promises.

    Raises:
        DataError: they are of another one, which is named with the remedy.
    """
    start = cast(io.BufferedReader, raw).peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    suffix = next((suffix for suffix, name in CODECS.items() if name == packed), "")
    if codec is not None:
        if start and packed != codec and (packed or _is_text(start)):
            what = f"is named as {codec} but is {packed or 'plain text'}"
            fix = f"end its name with {suffix}" if packed else "remove that ending from its name"
            raise DataError(Problem(file.name, what, fix))
    elif packed:
        raise DataError(Problem(file.name, f"is compressed with {packed}", f"end its name with {suffix}, or unpack it"))
    elif kind_of(file.path) not in _BINARY:
        for magic, (what, fix) in _NOT_TEXT.items():
            if start.lstrip().lower().startswith(magic.lower()) and (magic[:1] != b"<" or kind_of(file.path) != "txt"):
                raise DataError(Problem(file.name, what, fix))
    elif start.startswith(_POINTER):
        raise DataError(Problem(file.name, *_NOT_TEXT[_POINTER]))


def _is_text(start: bytes) -> bool:
    return start[:1] in b"[{" or (all(byte >= 0x20 or byte in b"\t\r\n" for byte in start))


def opened(file: DataFile) -> IO[bytes]:
    """The file's content, decompressed; seekable where that is cheap.

    Raises:
        ConfigError: the package that reads it is missing.
        OSError: it cannot be opened (`Unreachable` for a remote file).
        DataError: its first bytes are those of another type or compression than its name says.
    """
    raw = _packed(file)
    codec = codec_of(file.path)
    try:
        _check_content(file, raw, codec)
    except BaseException:
        raw.close()
        raise
    if codec is None:
        return raw
    # These split lines in Python; the buffer in front of them does it in C.
    if codec == "zstd":
        return io.BufferedReader(_Zstd(raw), _BUFFER_BYTES)
    unpacked = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[codec](raw, "rb")  # type: ignore[operator]
    return io.BufferedReader(_Closing(unpacked, raw), _BUFFER_BYTES)


class _Closing(io.RawIOBase):
    """A decompressor that closes its source: those of the standard library leave a file object open."""

    def __init__(self, unpacked: Any, packed: IO[bytes]) -> None:
        self._unpacked, self._packed = unpacked, packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._unpacked.readinto(buffer))

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._packed.close()
        super().close()
