"""Values as the YAML of a recipe, so that ftcli's own reader reads back what was written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.config.references import escaped
from ftcli.core.strict_yaml import KeyPath, scalar
from ftcli.core.untrusted.printable import one_line

_PLAIN = re.compile(r"[A-Za-z_.][\w.:+/@=-]*(?<![:.])", re.ASCII)
_SWITCHES = frozenset({"y", "n", "yes", "no", "on", "off"})
"""Words for ftcli's reader, and switches for most others, editors among them."""
_ESCAPES = {'"': '\\"', "\\": "\\\\"}
_REMARK_COLUMN = 36


def comment(text: str) -> str:
    """A comment of one line, whatever the text holds."""
    return f"# {one_line(' '.join(text.split()))}"


def value_text(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        inside = (f"{_word(str(key))}: {value_text(each)}" for key, each in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value) if isinstance(value, (int, float)) else _word(str(value))


def lines(tree: Mapping[str, Any], remark: Callable[[KeyPath], str]) -> Iterator[str]:
    """A tree of settings as the lines of a recipe.

    Args:
        remark: what is said behind a setting; "" for nothing.
    """
    yield from _block(escaped(tree), (), remark)


def _block(tree: Mapping[str, Any], path: KeyPath, remark: Callable[[KeyPath], str]) -> Iterator[str]:
    for key, value in tree.items():
        here = (*path, str(key))
        said = remark(here)
        line = "  " * len(path) + _word(str(key)) + ":"
        nested = isinstance(value, Mapping) and bool(value)
        line += "" if nested else f" {value_text(value)}"
        yield f"{line:<{_REMARK_COLUMN}} {comment(said)}" if said else line
        if nested:
            yield from _block(value, here, remark)


def _word(text: str) -> str:
    """A text, in quotes where YAML would read another value."""
    if _PLAIN.fullmatch(text) and scalar(text) == text and text.lower() not in _SWITCHES:
        return text
    return '"' + "".join(map(_letter, text)) + '"'


def _letter(letter: str) -> str:
    if letter.isprintable():
        return _ESCAPES.get(letter, letter)
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
