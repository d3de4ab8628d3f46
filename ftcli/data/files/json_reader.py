"""One array of objects, read object by object from a file of any size, each with the line it starts on.

The standard parser needs the whole text of a value; here it gets a moving window and a position to start at. What every
reader of text needs is here too.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO, Any, NoReturn, Protocol, cast

from ftcli.data.files.describe import describe_type


class OnBadRow(Protocol):
    """Takes the line, fault and remedy of an unusable row, and the field at fault if it is known."""

    def __call__(self, line: int, what: str, fix: str, field: str = "") -> None:
        """Called once per unusable row."""


Numbered = Iterator[tuple[int, dict[str, Any], bool]]
"""Line and value of each row."""

NOT_UTF8_FIX = "save the file as UTF-8"
ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""A byte that is not UTF-8, as decoded with `surrogateescape`."""

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WIDE_SAMPLE = 1024
_WIDE_ZEROS = {
    "UTF-16LE": [False, True, False, True],
    "UTF-16BE": [True, False, True, False],
    "UTF-32LE": [False, True, True, True],
    "UTF-32BE": [True, True, True, False],
}
"""Of each four bytes of text that is mostly ASCII, those that are zero."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
FIRST_CHUNK_BYTES = 1 << 16
CHUNK_BYTES = 1 << 20
MAX_ROW_BYTES = 32 << 20
"""Of one row, or one line: a few KiB that are compressed can hold a line of gigabytes. The longest book has 10 MiB."""
MAX_ROW_VALUES = 1 << 21
"""Of the values in one row of JSON, each of which takes some 60 bytes of memory."""
LONG_ROW_FIX = "divide it into several rows"
# Parsing a value truncated by the end of the window fails within this many characters of it; "-Infinity" is the longest
# token. Any earlier failure is a fault of the text itself.
_TRUNCATION_MARGIN = 16


class Broken(Exception):
    """The file cannot be read further than this line."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix


def without_mark(start: bytes) -> bytes:
    """The beginning of a file without its UTF-8 byte order mark.

    Raises:
        Broken: the text is in another encoding, by its mark or by its zero bytes.
    """
    if start.startswith(_WIDE_MARKS):
        raise Broken(1, "is UTF-16 (or UTF-32), not UTF-8", NOT_UTF8_FIX)
    if b"\0" in start[:_WIDE_SAMPLE] and (name := _wide_encoding(start[:_WIDE_SAMPLE])):
        raise Broken(1, f"is {name} without a mark, not UTF-8", f"{NOT_UTF8_FIX}: iconv -f {name} -t UTF-8")
    return start.removeprefix(codecs.BOM_UTF8)


def _wide_encoding(start: bytes) -> str:
    """UTF-16 or UTF-32 if every second byte, or three of four, are often zero; "" if the zero bytes are elsewhere."""
    zeros = [start[at::4].count(0) * 8 > len(start[at::4]) for at in range(4)]
    for name, pattern in _WIDE_ZEROS.items():
        if zeros == pattern:
            return name
    return ""


def text_lines(handle: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their line ends, without a byte order mark.

    Raises:
        Broken: the text is UTF-16 or UTF-32, or a line is longer than any row.
    """
    lines = iter(partial(handle.readline, MAX_ROW_BYTES + 1), b"")
    for number, raw in enumerate(_old_mac_lines(handle) if _ends_lines_with_cr(handle) else lines, 1):
        if number == 1:
            raw = without_mark(raw)
        require_short(number, len(raw))
        yield number, raw


def require_short(line: int, size: int) -> None:
    """Check the size of a line, or of a row that starts on it.

    Raises:
        Broken: it is longer than any row.
    """
    if size > MAX_ROW_BYTES:
        raise Broken(line, f"has a row of more than {MAX_ROW_BYTES >> 20} MiB", LONG_ROW_FIX)


def has_many_values(text: str | bytes) -> bool:
    """Whether a row of JSON may hold more values than any is read with, by the marks between them."""
    if len(text) <= MAX_ROW_VALUES:
        return False
    if isinstance(text, str):
        return sum(map(text.count, ",[{")) > MAX_ROW_VALUES
    return sum(map(text.count, (b",", b"[", b"{"))) > MAX_ROW_VALUES


def peeked(handle: IO[bytes]) -> bytes:
    """What the buffer holds of the beginning, at least 8 KiB of a longer local file; nothing is consumed."""
    return cast(io.BufferedReader, handle).peek(FIRST_CHUNK_BYTES)


def _ends_lines_with_cr(handle: IO[bytes]) -> bool:
    """Whether the text ends its lines with CR alone, as far as the buffer shows."""
    start = peeked(handle)
    return b"\n" not in start and b"\r" in start[:-1]


def _old_mac_lines(handle: IO[bytes]) -> Iterator[bytes]:
    """Lines that end with CR, LF or both, each with LF as its end."""
    left = b""
    while chunk := handle.read(CHUNK_BYTES):
        if chunk.endswith(b"\r"):  # an LF may follow
            chunk += handle.read(1)
        if len(left) > MAX_ROW_BYTES:  # told by who goes through the lines
            break
        *lines, left = (left + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            yield line + b"\n"
    if left:
        yield left


def not_utf8(bad_row: OnBadRow, number: int, fault: UnicodeDecodeError, fields: Sequence[str] = ()) -> None:
    """Report a line that is not UTF-8, and the fields with such bytes."""
    byte, inside = fault.object[fault.start], f", in {', '.join(map(repr, fields))}" if fields else ""
    what = f"is not UTF-8: byte 0x{byte:02x} at byte {fault.start + 1} of the line{inside}"
    bad_row(number, what, NOT_UTF8_FIX, ", ".join(fields))


class RowDecoder(json.JSONDecoder):
    """Parses JSON and notes a key that an object has twice, of which a parser keeps only the last value.

    measured: with the hook, scanning takes a tenth longer on short rows and no longer on conversations; counting keys
    in the text and in the value takes three times as much.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.twice = ""
        """A key that stands twice in one object of the value parsed last, "" if there is none."""

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs) and not self.twice:
            seen: set[str] = set()
            self.twice = next(name for name, _ in pairs if name in seen or seen.add(name)) or '""'  # type: ignore[func-returns-value]
        return found

    def line(self, text: str) -> Any:
        """The value of a line.

        Raises:
            ValueError, RecursionError: it is no JSON.
        """
        self.twice = ""
        try:
            value, end = self.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration:  # white space before it, or no JSON
            return self.decode(text)
        # `decode` would look for white space on both sides with regular expressions, which takes longer than this.
        rest = text[end:]
        return self.decode(text) if rest != "\n" and rest.strip(" \t\r\n") else value


def is_plain(line: bytes) -> bool:
    """Whether a line of JSON is ASCII, and its texts have neither control characters nor double braces.

    One look at the line saves the texts' own checks, each of which would look at every character.
    """
    if not line.isascii() or b"{{" in line or b"\x7f" in line:
        return False
    return b"\\" not in line or not (b"\\u" in line or b"\\b" in line or b"\\f" in line)


def usable(bad_row: OnBadRow, line: int, value: Any, twice: str, escaped_surrogates: bool) -> bool:
    """Whether a parsed value can be a row; reports why not.

    Args:
        twice: RowDecoder.twice.
    """
    if type(value) is not dict:
        bad_row(line, f"the row is {describe_type(value)}, not an object", 'write each row as {"column": value, …}')
        return False
    if twice:
        bad_row(line, f"has the key {twice!r} twice in one object", "keep one of them", twice)
        return False
    if escaped_surrogates and _has_lone_surrogates(value):
        fields = [name for name, field in value.items() if _has_lone_surrogates([name, field])]
        at = ", ".join(name.encode("ascii", "backslashreplace").decode() for name in fields)
        what = f"contains half a character in {at}: a \\ud8…–\\udf… escape without its other half"
        bad_row(line, what, "rewrite the text", at)
        return False
    return True


def _has_lone_surrogates(value: Any) -> bool:
    """Whether a text has half of a surrogate pair, which cannot be encoded and so not be tokenised."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def read_array(handle: IO[bytes], bad_row: OnBadRow) -> Numbered:
    """Line and value of each object of the array; elements that are not rows go to `bad_row`.

    Raises:
        Broken: the text is not one array, or has a syntax error.
    """
    # Only the marks of the outer array are handled here: "[", "," and "]", then the end of the file. `mark` peeks at
    # the next one, `take` steps over it, and `value` leaves each row to the standard parser.
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
                window.fail("a comma without a row after it")
            line = window.line
            value, raw = window.value()
            # Bytes that are not UTF-8 became lone surrogates, so the parser accepted them; only their row is lost.
            if window.escaping and (byte := ESCAPED_BYTE.search(raw)):
                bad_row(line + raw.count("\n", 0, byte.start()), "is not UTF-8", NOT_UTF8_FIX)
            elif usable(bad_row, line, value, window.decoder.twice, "\\ud" in raw or "\\uD" in raw):
                yield line, value, False
            if window.mark() != ",":
                break
            window.take()
    if window.mark() != "]":
        window.fail("the array is not closed" if window.mark() == "" else "a comma is missing between two rows")
    window.take()
    if window.mark() != "":
        window.fail("there is more text after the array")


def _not_an_array(window: _Window, mark: str) -> tuple[str, str]:
    """Fault and remedy for text that does not start with an array."""
    what = "is not an array of objects"
    if mark != "{":
        return what, "write the rows as [{…}, {…}]"
    if window.object_after_object():
        return f"{what} but one object after another", "this is the format of a .jsonl file: rename it"
    return f"{what} but one object", "keep only the array of rows, or write one object per line as .jsonl"


class _Window:
    """A moving window over JSON text, so that an array is read without being held in memory.

    `line` is the line of the current position `_pos` in `_text`; `_column` counts the characters of that line that were
    already dropped from the window.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        self.line = 1
        self.escaping = False  # whether bytes that are not UTF-8 were met, and decoded to lone surrogates
        self.decoder = RowDecoder()
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._pos, self._column, self._ended = "", 0, 0, False
        self._append(without_mark(handle.read(FIRST_CHUNK_BYTES)))

    def mark(self) -> str:
        """The next character that is not white space, or "" at the end; the position stays before it."""
        while True:
            end = _SPACE.match(self._text, self._pos).end()  # type: ignore[union-attr]
            self._move(end)
            if end < len(self._text):
                return self._text[end]
            if not self._more(CHUNK_BYTES):
                return ""

    def take(self) -> None:
        """Step over one character."""
        self._pos += 1

    def value(self) -> tuple[Any, str]:
        """The JSON value that starts here, and its source text."""
        size = CHUNK_BYTES
        while True:
            self.decoder.twice = ""
            if len(self._text) > CHUNK_BYTES and has_many_values(self._text):
                self.fail(f"may hold a row of more than {MAX_ROW_VALUES} values")
            try:
                value, end = self.decoder.raw_decode(self._text, self._pos)
                # "12" at the end of the window may be the beginning of "123".
                if end < len(self._text) or self._ended:
                    raw = self._text[self._pos : end]
                    self._move(end)
                    return value, raw
            except json.JSONDecodeError as fault:
                truncated = fault.pos >= len(self._text) - _TRUNCATION_MARGIN or fault.msg.startswith(
                    "Unterminated string"
                )
                if self._ended or not truncated:
                    self._fail_at(fault.pos, f"is not JSON: {fault.msg}")
            except (ValueError, RecursionError) as fault:
                self.fail(f"is not usable JSON: {fault}")
            require_short(self.line, len(self._text) - self._pos)
            self._more(size)
            size *= 2  # a value larger than the window is scanned again from its start: doubling keeps that linear

    def object_after_object(self) -> bool:
        """Whether the window has one whole object here and the start of another after it."""
        try:
            _, end = _DECODER.raw_decode(self._text, self._pos)
        except ValueError:
            return False
        return self._text[end:].lstrip().startswith("{")

    def fail(self, what: str) -> NoReturn:
        """Give up at the current position."""
        self._fail_at(self._pos, what)

    def _fail_at(self, pos: int, what: str) -> NoReturn:
        """Give up at a position in the window, named by line and column of the file."""
        line = self.line + self._text.count("\n", self._pos, pos)
        newline = self._text.rfind("\n", 0, pos)
        column = pos - newline if newline >= 0 else self._column + pos + 1
        inside = f", in the row that starts on line {self.line}" if line != self.line else ""
        raise Broken(line, f"{what}, at column {column}{inside}", "fix it there: the rows after it cannot be read")

    def _move(self, end: int) -> None:
        """Move to a position, counting the lines on the way."""
        self.line += self._text.count("\n", self._pos, end)
        self._pos = end

    def _more(self, size: int) -> bool:
        """Drop what was read and append the next chunk; False at the end of the file."""
        if self._ended:
            return False
        newline = self._text.rfind("\n", 0, self._pos)
        self._column = self._pos - newline - 1 if newline >= 0 else self._column + self._pos
        self._text = self._text[self._pos :]
        self._pos = 0
        self._append(self._handle.read(size))
        return True

    def _append(self, chunk: bytes) -> None:
        """Decode a chunk into the window; an empty one ends it."""
        self._ended = not chunk
        try:
            self._text += self._decoder.decode(chunk, self._ended)
        except UnicodeDecodeError:
            # The failed call consumed nothing, so the chunk can be decoded again. From here on only the rows with such
            # bytes are lost, not the file.
            self._decoder.errors = "surrogateescape"
            self.escaping = True
            self._text += self._decoder.decode(chunk, self._ended)
