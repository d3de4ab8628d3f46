"""Identifies the version of a data file, so that a cached count or an earlier run can be checked against it."""

from __future__ import annotations

import hashlib

from ftcli.core.errors import DataError, Problem
from ftcli.data.files import object_stores
from ftcli.data.files.file_types import DataFile
from ftcli.data.files.urls import is_url


def fingerprint(file: DataFile) -> str:
    """Hex sha256: of the bytes of a local or cached file, else of the URL, the size and the store's version tag.

    Raises:
        ConfigError: a remote file cannot be accessed.
        DataError: a local one cannot be read.
    """
    if is_url(file.path):
        # Without the query, since a signed address has a new one with every signature.
        return hashlib.sha256("\n".join([file.name, *object_stores.identity(file)]).encode()).hexdigest()
    try:
        with open(file.path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        problem = Problem(file.name, f"cannot be read: {error.strerror}", "check the file and the disk")
        raise DataError(problem) from None
