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
