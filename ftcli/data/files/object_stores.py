"""Listing and opening files in object stores and behind any other address that fsspec supports.

Each store has its own exceptions, without a common base class: here they all become one.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import posixpath
from collections.abc import Callable
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.files.file_types import DataFile, file_name
from ftcli.data.files.urls import Unreachable, is_web, shown

_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "blob_id", "crc32c")
_GLOB_MARKS = frozenset("*?[")


class _Guarded(io.RawIOBase):
    """A file in a store; every failure to read it is Unreachable."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        try:
            got = self._file.read(len(buffer))
        except Exception as fault:
            raise Unreachable(_reason(fault)) from None
        buffer[: len(got)] = got
        return len(got)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_raw(file: DataFile) -> io.RawIOBase:
    """The bytes behind a URL, as a stream.

    Raises:
        ConfigError: its driver package is missing, or (web) it is not available.
        Unreachable: it cannot be opened.
    """
    if is_web(file.path):
        from ftcli.data.files.http import look

        return look(file.path, file.name)
    system, path = _system(file.path, file.name)
    try:
        return _Guarded(system.open(path, "rb"))
    except Exception as fault:
        raise Unreachable(_reason(fault)) from None


def identity(file: DataFile) -> list[str]:
    """Identifies the version of a remote file: its size and the store's own tag.

    Raises:
        ConfigError: it cannot be accessed.
    """
    if is_web(file.path):
        from ftcli.data.files.http import look

        with look(file.path, file.name) as answer:
            return [str(answer.size), answer.tag]
    system, path = _system(file.path, file.name)
    try:
        info = system.info(path)
        tags = [f"{key}={info[key]}" for key in _TAGS if info.get(key)]
        return [str(info.get("size")), *(tags or [str(system.ukey(path))])]
    except Exception as fault:
        raise _refused(file.path, file.name, fault) from None


def listed(url: str, where: str) -> tuple[bool, dict[str, str]]:
    """What a URL leads to: whether it is a single file, and every file by its relative path.

    Raises:
        ConfigError: it does not exist or cannot be reached, or its driver package is missing.
    """
    if is_web(url):
        from ftcli.data.files.http import look

        look(url, where).close()
        return True, {file_name(url): url}
    system, path = _system(url, where)
    try:
        # Not `isfile` and `isdir`, which answer no whatever goes wrong.
        kind = _kind(system, path)
        if kind == "file":
            return True, {posixpath.basename(path): url}
        if kind == "directory":
            found = [(str(each), posixpath.relpath(str(each), path or "/")) for each in system.find(path)]
        elif is_pattern(url):
            files = (str(each) for each, info in system.glob(path, detail=True).items() if info["type"] == "file")
            found = [(each, each.lstrip("/")) for each in files]
        else:
            raise FileNotFoundError
    except Exception as fault:
        raise _refused(url, where, fault) from None
    if "::" in url:
        raise ConfigError(
            Problem(where, f"{shown(url)} is more than one file", "a chain of addresses must name one file")
        )
    address = _addresses(system, url, path)
    return False, {relative: address(each) for each, relative in found}


def _addresses(system: Any, url: str, path: str) -> Callable[[str], str]:
    """A function from a path in the file system of `url` to its address; `path` is the path of `url` itself."""
    whole, root = url.rstrip("/"), path.rstrip("/")
    if root and whole.endswith(root):
        # Not every file system can rebuild an address: the part it strips may include the server's name.
        return lambda each: whole.removesuffix(root) + each
    return lambda each: str(system.unstrip_protocol(each))


def _kind(system: Any, path: str) -> str | None:
    """The type of a path: "file", "directory", or None if it does not exist."""
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError:
        return None


def is_pattern(url: str) -> bool:
    """Whether a URL is a pattern; web addresses never are, since a question mark starts their query."""
    return not is_web(url) and bool(_GLOB_MARKS & set(url))


def _system(url: str, where: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there."""
    fsspec = importlib.import_module("fsspec")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as fault:
        raise ConfigError(
            Problem(where, f"{shown(url)} needs a package that is not installed", _remedy(url, fault))
        ) from None
    except ValueError as fault:
        fix = "use a path, a hub data set ORGANISATION/NAME, or s3://, gs://, az://, hf://, https://"
        raise ConfigError(Problem(where, f"{shown(url)} cannot be opened: {_reason(fault)}", fix)) from None
    except Exception as fault:
        raise _refused(url, where, fault) from None
    return system, str(path)


def _remedy(url: str, fault: ImportError) -> str:
    """The command that installs what a protocol needs."""
    known = importlib.import_module("fsspec.registry").known_implementations
    for protocol in (part.partition("://")[0] for part in url.split("::")):
        package = known.get(protocol, {}).get("class", "fsspec").partition(".")[0]
        if package != "fsspec" and importlib.util.find_spec(package) is None:
            return f"pip install {package}"
    return str(fault)


def _refused(url: str, where: str, fault: Exception) -> ConfigError:
    name = shown(url)
    if isinstance(fault, FileNotFoundError):
        return ConfigError(Problem(where, f"{name} does not exist", "check the address and your access to it"))
    if isinstance(fault, PermissionError):
        return ConfigError(
            Problem(where, f"access to {name} is denied", "log in to that store, or check its permissions")
        )
    fix = "check the address, the network and your login, or download it and use the local file or folder"
    return ConfigError(Problem(where, f"{name} cannot be reached ({_reason(fault)})", fix))


def _reason(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0][:200]}" if lines else type(fault).__name__
