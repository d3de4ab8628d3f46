"""The bytes of a local or remote data file, decompressed while they are read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from typing import IO, Any

from ftcli.data.files import object_stores
from ftcli.data.files.file_types import DataFile, codec_of
from ftcli.data.files.urls import is_url

DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
"""What the codecs raise for a damaged archive, in addition to OSError."""
_BUFFER_BYTES = 1 << 20


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


def opened(file: DataFile) -> IO[bytes]:
    """The file's content, decompressed; seekable where that is cheap.

    Raises:
        ConfigError: the package that reads it is missing.
        OSError: it cannot be opened (`Unreachable` for a remote file).
    """
    raw = _packed(file)
    codec = codec_of(file.path)
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
