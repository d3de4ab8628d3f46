"""One array of objects, read object by object out of a file of any size, each with the line it starts on.

The standard parser wants the whole text first; here it is given a moving window and told where to begin. The parts that
every reader of JSON needs stand here too.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, NoReturn, Protocol

from ftcli.data.files.describe import sort_of


class Told(Protocol):
    """Takes line, fault and remedy of an unusable row, and the field at fault where it is known."""

    def __call__(self, line: int, what: str, fix: str, field: str = "") -> None:
        """Called once a row."""


Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Line and value of each row."""

NOT_UTF8_FIX = "save the file as UTF-8"
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""What a byte that is not UTF-8 stands as, decoded with `surrogateescape`."""

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
FIRST_CHUNK_BYTES = 1 << 16
CHUNK_BYTES = 1 << 20
# A value cut off by the end of the window fails within this many characters of it ("-Infinity" is the longest token).
_CUT_MARGIN = 16


class Broken(Exception):
    """The file cannot be read on from this line."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix


def without_mark(start: bytes) -> bytes:
    """The beginning of a file without its UTF-8 byte order mark.

    Raises:
        Broken: the mark is that of another encoding.
    """
    if start.startswith(_WIDE_MARKS):
        raise Broken(1, "is UTF-16 (or UTF-32), not UTF-8", NOT_UTF8_FIX)
    return start.removeprefix(codecs.BOM_UTF8)


def usable(told: Told, line: int, value: Any, escaped_surrogates: bool) -> bool:
    """Whether a parsed value can be a row; tells why not."""
    if type(value) is not dict:
        told(line, f"the row is {sort_of(value)}, not an object", 'write each row as {"column": value, …}')
        return False
    if escaped_surrogates and _half_characters(value):
        fields = [name for name, field in value.items() if _half_characters([name, field])]
        at = ", ".join(name.encode("ascii", "backslashreplace").decode() for name in fields)
        what = f"holds half a character in {at}: a \\ud8…–\\udf… escape without its partner"
        told(line, what, "write the text anew", at)
        return False
    return True


def _half_characters(value: Any) -> bool:
    """Whether an escaped surrogate lost its other half, which no tokenizer can take."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def read_array(handle: IO[bytes], told: Told) -> Numbered:
    """Line and value of each object of the array; elements that are no rows go to `told`.

    Raises:
        Broken: the text is not one array, or breaks inside.
    """
    window = _Window(handle)
    mark = window.mark()
    if mark == "":
        return
    if mark != "[":
        raise Broken(window.line, *_not_an_array(window, mark))
    window.take()
    if window.mark() != "]":
        while True:
            if window.mark() == "]":
                window.fail("a comma with no row behind it")
            line = window.line
            value, raw = window.value()
            if window.escaping and (byte := ESCAPED_BYTE.search(raw)):
                told(line + raw.count("\n", 0, byte.start()), "is not UTF-8", NOT_UTF8_FIX)
            elif usable(told, line, value, "\\ud" in raw or "\\uD" in raw):
                yield line, value
            if window.mark() != ",":
                break
            window.take()
    if window.mark() != "]":
        window.fail("the array is not closed" if window.mark() == "" else "a comma is missing between two rows")
    window.take()
    if window.mark() != "":
        window.fail("there is more text behind the array")


def _not_an_array(window: _Window, mark: str) -> tuple[str, str]:
    what = "is not an array of objects"
    if mark != "{":
        return what, "write the rows as [{…}, {…}]"
    if window.object_behind_object():
        return f"{what} but one object after another", "this is how a .jsonl file is written: rename it"
    return f"{what} but one object", "keep only the array that holds the rows, or write one object a line as .jsonl"


class _Window:
    """A moving view of JSON text, so that an array is read without holding it."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.line = 1
        self.escaping = False  # met bytes that are not UTF-8; they now stand as lone surrogates
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._pos, self._column, self._ended = "", 0, 0, False
        self._append(without_mark(handle.read(FIRST_CHUNK_BYTES)))

    def mark(self) -> str:
        """The next character that is not white space, "" at the end; it is not taken."""
        while True:
            end = _SPACE.match(self._text, self._pos).end()  # type: ignore[union-attr]
            self._move(end)
            if end < len(self._text):
                return self._text[end]
            if not self._more(CHUNK_BYTES):
                return ""

    def take(self) -> None:
        """Steps over one character."""
        self._pos += 1

    def value(self) -> tuple[Any, str]:
        """The JSON value that starts here, and its text."""
        size = CHUNK_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._pos)
                # "12" at the end of the buffer may be the beginning of "123".
                if end < len(self._text) or self._ended:
                    raw = self._text[self._pos : end]
                    self._move(end)
                    return value, raw
            except json.JSONDecodeError as fault:
                cut = fault.pos >= len(self._text) - _CUT_MARGIN or fault.msg.startswith("Unterminated string")
                if self._ended or not cut:
                    self._fail_at(fault.pos, f"is not JSON: {fault.msg}")
            except (ValueError, RecursionError) as fault:
                self.fail(f"is not usable JSON: {fault}")
            self._more(size)
            size *= 2  # a value larger than the buffer is scanned again: doubling keeps that linear

    def object_behind_object(self) -> bool:
        """Whether, as far as can be seen now, one whole object stands here and another behind it."""
        try:
            _, end = _DECODER.raw_decode(self._text, self._pos)
        except ValueError:
            return False
        return self._text[end:].lstrip().startswith("{")

    def fail(self, what: str) -> NoReturn:
        """Gives up at the present place."""
        self._fail_at(self._pos, what)

    def _fail_at(self, pos: int, what: str) -> NoReturn:
        line = self.line + self._text.count("\n", self._pos, pos)
        newline = self._text.rfind("\n", 0, pos)
        column = pos - newline if newline >= 0 else self._column + pos + 1
        inside = f", in the row that starts on line {self.line}" if line != self.line else ""
        raise Broken(line, f"{what}, at column {column}{inside}", "mend it there: the rows behind it cannot be read")

    def _move(self, end: int) -> None:
        self.line += self._text.count("\n", self._pos, end)
        self._pos = end

    def _more(self, size: int) -> bool:
        """Drops what was read and appends the next chunk; False at the end of the file."""
        if self._ended:
            return False
        newline = self._text.rfind("\n", 0, self._pos)
        self._column = self._pos - newline - 1 if newline >= 0 else self._column + self._pos
        self._text = self._text[self._pos :]
        self._pos = 0
        self._append(self._handle.read(size))
        return True

    def _append(self, chunk: bytes) -> None:
        self._ended = not chunk
        try:
            self._text += self._decoder.decode(chunk, self._ended)
        except UnicodeDecodeError:
            # Nothing was consumed yet; from here on only the rows that hold such bytes are lost.
            self._decoder.errors = "surrogateescape"
            self.escaping = True
            self._text += self._decoder.decode(chunk, self._ended)
