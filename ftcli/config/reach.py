"""What a setting reaches, and whether a file may set it: the guard that the table of fields decides.

Values that write, send or run need a flag of this command line unless they were typed there. Mappings that a library is
passed are read inside, also where they are files of their own; an entry or a field that the table does not know could
do anything, and may only be typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.config.compose import Composed
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.core.untrusted import foreign_files
from ftcli.settings.backends import ENDPOINTS
from ftcli.settings.fields import field_table
from ftcli.settings.fields.field_row import LISTED, FieldRow, Reach
from ftcli.settings.library_fields import Field

_WHAT: Mapping[Reach, str] = {
    "writes": "writes files where it says",
    "sends": "sends data elsewhere",
    "runs": "runs code",
}
_SENT_WITH = ("type", "base_url", "api_key_env")
"""What of a judge decides who is sent what."""


def problem(
    composed: Composed, name: str, value: Any, path: tuple[str, ...], field: Field | None = None
) -> Problem | None:
    """The problem of a value that a file sets and that only the command line may grant, or whose reach is unsorted."""
    if value in (None, False):
        return None
    row = field_table.row_of(name, field)
    if row is None:
        return _unsorted(composed, name, path)
    if name in field_table.LISTED_FIELDS and (content := content_of(value)) is not None:
        return _inside(composed, name, content, path, read_from=value if isinstance(value, str) else "")
    return _granted(composed, name, value, path, row)


def touched(groups: Mapping[str, Any]) -> Iterator[tuple[str, Any, FieldRow]]:
    """Each setting that reads, writes, sends or runs with the value that it has, entries of mappings included.

    Args:
        groups: the settings by group, as in a tree or a spec.
    """
    for group, settings in groups.items():
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            name = f"{group}.{key}"
            row = field_table.row_of(name)
            if value in (None, False, "", [], {}) or row is None or row.owner or row.refused:
                continue
            content = content_of(value) if name in field_table.LISTED_FIELDS else None
            if content is not None:
                yield from _entries(name, content)
            # A mapping that may also be a file reads one only where it names it.
            if _touches(row, value) and not (name in field_table.LIBRARY_PATHS and isinstance(value, Mapping)):
                yield name, value, row


def _entries(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any, FieldRow]]:
    for key, value in content.items():
        row = field_table.ENTRIES.get(f"{name}.{key}")
        if value in (None, False) or row is None:
            continue
        if row.inside == LISTED and isinstance(value, Mapping):
            yield from _entries(f"{name}.{key}", value)
        elif _touches(row, value) and (name != "method.judge" or content.get("type") in ENDPOINTS or key == "model"):
            yield f"{name}.{key}", value, row


def _touches(row: FieldRow, value: Any) -> bool:
    return any(each != "size" for each in row.reaches) and not reaches_nothing(row, value)


def flags_of(groups: Mapping[str, Any]) -> frozenset[str]:
    """The flags that a file with these settings would need."""
    return frozenset(row.grant for _, _, row in touched(groups) if row.grant)


def reaches_nothing(row: FieldRow, value: Any) -> bool:
    """Whether every word of a value is one of those that reach nothing."""
    words = value if isinstance(value, list) else [value]
    return bool(row.harmless) and all(word in row.harmless for word in words)


def content_of(value: Any) -> Mapping[str, Any] | None:
    """The mapping that a value is, holds as JSON, or names as a file; None where there is none."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str):
        return None
    try:
        inline = value.lstrip().startswith("{")
        content = foreign_files.parse_json(value) if inline else foreign_files.read_json(Path(value).expanduser())
    except (OSError, ValueError):  # reported where the mapping itself is checked
        return None
    return content if isinstance(content, dict) else None


def _granted(
    composed: Composed, name: str, value: Any, path: tuple[str, ...], row: FieldRow, read_from: str = ""
) -> Problem | None:
    origin = composed.origin(*path)
    typed = origin.by == "cli" and not read_from
    if not row.grant or reaches_nothing(row, value) or typed or row.grant in composed.request.grants:
        return None
    does = " and ".join(_WHAT[each] for each in row.reaches if each in _WHAT)
    what = f"{name} {does}, which a file may not request"
    return Problem(
        _file_or(read_from, origin.where), what, f"grant it on the command line with {row.grant}, or remove it"
    )


def _inside(
    composed: Composed, name: str, content: Mapping[str, Any], path: tuple[str, ...], read_from: str
) -> Problem | None:
    """The first problem of what stands in a mapping.

    Args:
        read_from: the file that it was read from, if it was; what the user typed is then that file's name alone.
    """
    if name == "method.judge":
        return _of_judge(composed, name, content, path)
    for key, value in content.items():
        entry, below = f"{name}.{key}", (*path, str(key))
        row = field_table.ENTRIES.get(entry)
        if value in (None, False):
            found = None
        elif row is None:
            found = _unknown_entry(composed, name, str(key), below, read_from)
        elif row.refused:
            found = Problem(composed.where(*below), f"{entry} is refused: {row.refused}", "remove it")
        elif row.inside == LISTED and isinstance(value, Mapping):
            found = _inside(composed, entry, value, below, read_from)
        else:
            found = _granted(composed, entry, value, below, row, read_from)
        if found is not None:
            return found
    return None


def _of_judge(composed: Composed, name: str, content: Mapping[str, Any], path: tuple[str, ...]) -> Problem | None:
    """Of a judge at an endpoint, who is asked and with which key has to be typed or granted: each of them."""
    if content.get("type") not in ENDPOINTS:
        return None
    row = field_table.ENTRIES[f"{name}.type"]
    named = [key for key in _SENT_WITH if content.get(key) is not None]
    found = (_granted(composed, name, content["type"], (*path, key), row) for key in named)
    return next(filter(None, found), None)


def _unsorted(composed: Composed, name: str, path: tuple[str, ...]) -> Problem | None:
    origin = composed.origin(*path)
    if origin.by == "cli":
        return None
    what = f"nobody has sorted yet what {name} reads, writes, sends or runs, so a file may not set it"
    return Problem(origin.where, what, f"type it on the command line, as {name}=…, or remove it")


def _unknown_entry(composed: Composed, name: str, key: str, path: tuple[str, ...], read_from: str) -> Problem | None:
    origin = composed.origin(*path)
    if origin.by == "cli" and not read_from:
        return None
    known = [entry.removeprefix(f"{name}.") for entry in field_table.ENTRIES if entry.startswith(f"{name}.")]
    what = f"{name} has no entry {key}, or none whose reach is sorted, so a file may not set it"
    fix = suggest(key, [entry for entry in known if "." not in entry], "")
    return Problem(_file_or(read_from, origin.where), what, fix)


def _file_or(read_from: str, where: str) -> str:
    """The file that a mapping was read from, unless it was written as JSON; else the place of the setting."""
    return where if not read_from or read_from.lstrip().startswith("{") else read_from
