"""Several places of rows written as one text, as a command line has them: `[a.jsonl,b.jsonl]` or `a.jsonl,b.jsonl`.

A text that is itself the name of a file or folder is that file, whatever characters it has.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence

from ftcli.core.paths import is_builtin
from ftcli.core.untrusted import foreign_files
from ftcli.data.files.file_types import kind_of
from ftcli.data.files.urls import is_url

_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'""")
_ITEM = re.compile(rf"""\s*({_QUOTED.pattern}|[^,]*?)\s*(?:,|$)""")


def split_paths(text: str, folder: str = "") -> str | list[str]:
    """The places that a text lists, in order; the text itself where it names one.

    Args:
        folder: where a relative path starts, if not in the working directory.
    """
    if not _is_list(text) and "," not in text:
        return text
    if os.path.lexists(os.path.join(folder, os.path.expanduser(text))):
        return text
    inner = text[1:-1] if _is_list(text) else text
    items = [item for item in _items(inner) if item]
    if _is_list(text):
        return items if "," in inner or any(_is_place(item, folder) for item in items) else text
    return items if len(items) > 1 and all(_is_place(item, folder) for item in items) else text


def join_paths(paths: Sequence[str]) -> str:
    """The text that `split_paths` reads as these paths, quoted where a name needs it."""
    if len(paths) == 1 and split_paths(paths[0]) == paths[0]:
        return paths[0]
    plain = re.compile(r"""[^\s,\[\]"'][^,\[\]"']*""")
    quoted = (path if plain.fullmatch(path) else json.dumps(path, ensure_ascii=False) for path in paths)
    return f"[{','.join(quoted)}]"


def path_text(path: str | Sequence[str] | None) -> str:
    """The value of a path setting as a person reads it."""
    return str(path) if path is None or isinstance(path, str) else ", ".join(path)


def _is_list(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def _items(text: str) -> list[str]:
    found: list[str] = []
    end = 0
    while end < len(text):
        match = _ITEM.match(text, end)
        if match is None:  # a quote that is not closed before the comma: taken as it stands
            return [*found, *text[end:].split(",")]
        found.append(_unquoted(match[1]))
        end = match.end()
    return found


def _unquoted(item: str) -> str:
    if not _QUOTED.fullmatch(item):
        return item
    if item.startswith("'"):
        return item[1:-1]
    try:
        return str(foreign_files.parse_json(item))
    except ValueError:
        return item[1:-1]


def _is_place(item: str, folder: str) -> bool:
    """Whether an item of a list names rows: a file or folder that exists, or a name or address as data have them."""
    path = os.path.join(folder, os.path.expanduser(item))
    return (
        os.path.lexists(path) or is_url(item) or is_builtin(item) or kind_of(item) is not None or bool(glob.glob(path))
    )
