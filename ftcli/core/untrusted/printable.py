"""Text as a terminal may show it: what could move the cursor, colour, hide or reorder is written as an escape.

Recipes, rows, file names and answers of models come from strangers. An escape character in them could clear the screen,
set the title or answer for the user; a carriage return or a newline could forge a line of ftcli's own; the marks of
bidirectional text could show a command other than the one that is copied (Boucher and Anderson 2021, arXiv:2111.00169).
"""

from __future__ import annotations

import io

TYPE_CHECKING = False
if TYPE_CHECKING:  # a help screen needs nothing of these
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""The marks that embed, override and isolate. Those for one character (U+200E, U+200F) are part of ordinary text."""
_SEPARATORS = (0x2028, 0x2029)
_TAGS = tuple(range(0xE0000, 0xE0080))
"""Invisible copies of ASCII, which a model reads and a person does not see."""
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))


def _escape(code: int) -> str:
    # As JSON writes it, so that text which is JSON stays JSON of the same value.
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


_LINE = {code: _escape(code) for code in (*_CONTROLS, *_BIDIRECTIONAL, *_SEPARATORS, *_TAGS)}
_LINE |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_LINES = {code: text for code, text in _LINE.items() if code not in (ord("\n"), ord("\t"))}
_OUTPUT = {code: text for code, text in _LINES.items() if code != ord("\r")}


def one_line(text: str) -> str:
    """The text on one line, for a value inside a message: a newline in it is written as an escape too."""
    return text if text.isprintable() else text.translate(_LINE)


def printable(text: str) -> str:
    """The text as it may be printed: newlines and tabs stay."""
    return text if text.isprintable() else text.translate(_LINES)


def process_output(text: str) -> str:
    """What another process printed, as it may be passed on: its carriage returns redraw its line of progress."""
    return text if text.isprintable() else text.translate(_OUTPUT)


class CleanStream:
    """A stream for text whose every write is cleaned, whoever writes; all else is the stream's own."""

    def __init__(self, stream: TextIO, clean: Callable[[str], str]) -> None:
        self.stream, self._clean = stream, clean

    def write(self, text: str) -> int:
        """Write text, cleaned."""
        self.stream.write(self._clean(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line, cleaned."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def cleaned(stream: TextIO, clean: Callable[[str], str] = printable) -> TextIO:
    """The stream, cleaned, that shows a character which its encoding lacks as an escape too."""
    if isinstance(stream, CleanStream):
        return stream  # type: ignore[return-value]
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return CleanStream(stream, clean)  # type: ignore[return-value]


def beneath(stream: TextIO) -> TextIO:
    """The stream without cleaning, for who writes escapes of ftcli's own around text that is cleaned already."""
    return stream.stream if isinstance(stream, CleanStream) else stream
