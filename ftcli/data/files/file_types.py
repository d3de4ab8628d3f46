"""Which files hold rows, by name alone: the suffix gives the file type, a second suffix the compression.

By name, so that a folder, a bucket or a hub data set can be examined without opening any file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ftcli.data.files.urls import is_url, is_web

KINDS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""Suffix to file type."""
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""Suffix to compression."""
KNOWN = f"use one of {', '.join(KINDS)}, each also with {', '.join(list(CODECS)[:-1])} or {list(CODECS)[-1]}"
"""The remedy for an unsupported file type."""

_SHEET = "save the sheet as CSV (UTF-8) or write the rows as .jsonl"
_PROSE = "save its text as .txt, or write the rows as .jsonl"
CONVERTED: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".md"), _PROSE),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt", ".h5"), "write the rows as .parquet or .jsonl"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".sql"), "export the table as CSV"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it, and name the file or the folder"),
    **dict.fromkeys((".yaml", ".yml", ".xml", ".orc", ".avro"), "write the rows as .jsonl"),
}
"""Suffixes of files that hold data in another way, and the remedy for each."""


def unsupported_fix(path: str) -> str:
    """The remedy for a file whose type is not supported."""
    suffix = os.path.splitext(file_name(path))[1]
    return f"{CONVERTED[suffix]}; {KNOWN}" if suffix in CONVERTED else KNOWN


# Files beside the data in published folders. Few on purpose: a silently skipped file is worse than one that fails.
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"}
_PAPERS = {"readme", "license", "licence", "copying", "notice", "changelog", "citation", "requirements"}
# Caches that `map` and `filter` of the datasets library leave in the folder of a saved set.
_LEFTOVER = re.compile(r"cache-[0-9a-f]{16}\w*\.arrow")


@dataclass(frozen=True)
class DataFile:
    """One file of rows. `path` is a local path or a URL; `name` is what errors print for it."""

    path: str
    name: str
    delimiter: str = ""
    """The delimiter of a CSV or TSV file; "" recognises it."""


def file_name(path: str) -> str:
    """The last part of a path or URL, lower case, without the query of a web address."""
    if is_url(path):
        # In a chain (zip://inner::s3://outer) the first address names the file.
        path = next((part for part in path.split("::") if "://" in part), path)
        if is_web(path):
            path = re.split(r"[?#]", path, maxsplit=1)[0]
    return path.rpartition("/")[2].lower()


def codec_of(path: str) -> str | None:
    """The compression of a file, or None."""
    return CODECS.get(os.path.splitext(file_name(path))[1])


def kind_of(path: str) -> str | None:
    """The type of a file, or None if it is not supported."""
    name = file_name(path)
    base, suffix = os.path.splitext(name)
    return KINDS.get(os.path.splitext(base)[1] if suffix in CODECS else suffix)


def has_delimiter(path: str) -> bool:
    """Whether the fields of a file's records are separated by a delimiter."""
    return kind_of(path) in ("csv", "tsv")


def holds_rows(relative: str) -> bool:
    """Whether a file below a folder is data: of a supported type, not hidden, and not a companion of the data.

    Args:
        relative: its path below that folder, with slashes.
    """
    if kind_of(relative) is None or any(part.startswith(".") for part in relative.split("/")):
        return False
    name = file_name(relative)
    if name in _NO_ROWS or _LEFTOVER.fullmatch(name):
        return False
    return not (kind_of(name) == "txt" and name.partition(".")[0] in _PAPERS)


def same_file_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ only in compression, so that the rows would count twice; None if there are none."""
    seen: dict[str, str] = {}
    for name in names:
        plain = name[: -len(os.path.splitext(name)[1])] if codec_of(name) else name
        if (other := seen.setdefault(plain, name)) != name:
            return other, name
    return None
