"""Turns and lists kept as JSON text, as a cell of a table has to keep them: read before the formats see the row.

A column that is always a list, such as messages, must then be JSON. A prompt or an answer may well be JSON of another
meaning: it is read as turns only if each entry has a role and a content.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ftcli.core.errors import DataError, RowProblem
from ftcli.data.files.reader import Row
from ftcli.data.formats.conversations import CONTENT_KEYS, ROLE_KEYS
from ftcli.data.formats.ranked import LISTS
from ftcli.data.formats.row_fields import CHOSEN, CONVERSATIONS, REJECTED

_ALWAYS = frozenset({*CONVERSATIONS, "history"})
_MAYBE = frozenset({"prompt", "completion", *CHOSEN, *REJECTED, *LISTS})
_COLUMNS = _ALWAYS | _MAYBE
_PRINTED = re.compile(rf"\[?\s*\{{\s*'(?:{'|'.join((*ROLE_KEYS, *CONTENT_KEYS))})'\s*:")
"""The beginning of turns as Python prints them."""


def with_json_read(row: Row) -> Row:
    """The row with its turns and lists as such, where they are JSON text.

    Raises:
        DataError: such a text is not JSON.
    """
    if _COLUMNS.isdisjoint(row.value):
        return row
    parsed: dict[str, Any] = {}
    for name, value in row.value.items():
        if type(value) is str and name in _COLUMNS and value.lstrip()[:1] in ("[", "{"):
            parsed[name] = _read(row, name, value)
    return row._replace(value={**row.value, **parsed}) if parsed else row


def _read(row: Row, name: str, value: str) -> Any:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as fault:
        if _PRINTED.match(value.lstrip()):
            what, fix = f"{name} is a list as Python prints it, not JSON", "write it with json.dumps(…)"
        elif name in _ALWAYS:
            what, fix = (
                f"{name} is text that is not JSON: {fault}",
                "write a JSON list, with double quotes",
            )
        else:
            return value
        raise DataError(RowProblem(row.where, what, fix, field=name)) from None
    return found if name in _ALWAYS or _is_list_of_answers(name, found) or _are_turns(found) else value


def _is_list_of_answers(name: str, found: Any) -> bool:
    return name in LISTS and isinstance(found, list)


def _are_turns(found: Any) -> bool:
    entries = found if isinstance(found, list) else [found]
    return bool(entries) and all(
        isinstance(entry, dict)
        and any(isinstance(entry.get(key), str) for key in ROLE_KEYS)
        and any(key in entry for key in (*CONTENT_KEYS, "tool_calls"))
        for entry in entries
    )
