"""Files that anybody may have written: regular ones alone, bounded in size, and every fault a ValueError.

`json.loads` alone takes gigabytes where a file says so, ends in a RecursionError where it nests deeply, and waits for
ever where the name leads to a pipe instead of a file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from ftcli.core.errors import ConfigError, Problem

MAX_BYTES = 8 << 20
"""Of a configuration, spec, manifest or index: the largest of models that are published have some two MiB."""
MAX_TOKENIZER_BYTES = 128 << 20
"""Of a tokenizer.json: a vocabulary of 262,144 entries with its merges takes 33 MiB."""


class Unreadable(ValueError):
    """The file is larger, or nested deeper, than any that is read; the message says which."""


def parse_json(text: str | bytes) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def read_json(file: Path, limit: int = MAX_BYTES) -> Any:
    """The value in a file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no JSON, no regular file, larger than the limit, or nested too deeply.
    """
    return parse_json(read_text(file, limit))


def read_object(file: Path, fix: str) -> dict[str, Any]:
    """The object in a file of ftcli's own; {} where there is no such file.

    Args:
        fix: the remedy where something has damaged it, since what is written atomically does not get so by itself.

    Raises:
        ConfigError: it cannot be read, or holds anything else.
    """
    if not os.path.lexists(file):
        return {}
    try:
        found = read_json(file)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(Problem(str(file), "is damaged", fix))
    return found


def read_text(file: Path, limit: int = MAX_BYTES) -> str:
    """The content of a file as text.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not UTF-8, no regular file, or larger than the limit.
    """
    return read_bytes(file, limit).decode("utf-8")


def read_bytes(file: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, or larger than the limit.
    """
    with opened(file) as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise Unreadable(f"it is larger than {limit >> 20} MiB")
    return raw


def read_lines(file: Path, limit: int = MAX_BYTES) -> Iterator[str]:
    """The lines of a file of any length, each with the newline that ends it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, a line is larger than the limit, or one is not UTF-8.
    """
    with opened(file) as stream:
        while raw := stream.readline(limit + 1):
            if len(raw) > limit:
                raise Unreadable(f"a line of it is larger than {limit >> 20} MiB")
            yield raw.decode("utf-8")


def opened(file: Path) -> BufferedReader:
    """A file to read.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file.
    """
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
        raise Unreadable("it is no regular file")
    return open(file, "rb")


def strays(folder: Path) -> Iterator[Problem]:
    """What in a folder leads out of it, and what is neither a file, a folder nor a link."""
    inside = os.path.join(os.path.realpath(folder), "")
    for here, folders, files in os.walk(folder):
        for path in (os.path.join(here, name) for name in (*folders, *files)):
            try:
                mode = os.lstat(path).st_mode
            except OSError:  # a run at work has just removed it
                continue
            if stat.S_ISLNK(mode) and not os.path.realpath(path).startswith(inside):
                what = f"is a link that leads out of the folder, to {os.path.realpath(path)}"
                yield Problem(path, what, "remove it, or put there what it leads to")
            elif not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield Problem(path, "is no file but a pipe, a socket or a device", "remove it; ftcli makes none")
