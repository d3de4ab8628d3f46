"""A pseudo-terminal that commands run on, and a reader of what stands on its screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WAIT_SECONDS = 120
_PIECE = re.compile(r"\x1b\[(?P<number>\d*)(?:;\d+)*(?P<code>[A-Za-z])|(?P<control>[\r\n])|(?P<text>[^\r\n\x1b]+)")
_HALF = re.compile(r"\x1b(\[[\d;]*)?$")


class Screen:
    """Lines as a terminal shows them that breaks a long line into several, anew when its width changes.

    Of the escapes it knows what ftcli may send: colours, up by so many lines, and erase to the end.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._lines, self._line, self._at = [""], 0, 0

    def feed(self, text: str) -> None:
        """Take what a program wrote, in whole escapes."""
        end = 0
        for piece in _PIECE.finditer(text):
            assert piece.start() == end, f"an unknown escape: {text[end : piece.start() + 8]!r}"
            end = piece.end()
            if piece["control"] == "\r":
                self._at = self._row()[1]
            elif piece["control"] == "\n":
                self._down()
            elif piece["text"]:
                line = self._lines[self._line].ljust(self._at)
                self._lines[self._line] = line[: self._at] + piece["text"] + line[self._at + len(piece["text"]) :]
                self._at += len(piece["text"])
            elif piece["code"] == "A":
                for _ in range(int(piece["number"] or 1)):
                    self._up()
            elif piece["code"] == "J":
                assert piece["number"] in ("", "0")
                self._lines = [*self._lines[: self._line], self._lines[self._line][: self._at]]
            else:
                assert piece["code"] == "m", f"an unknown escape: {piece[0]!r}"
        assert end == len(text), f"an unknown escape: {text[end:]!r}"

    def _row(self) -> tuple[int, int]:
        """The row of its line in which the cursor is, and where that begins; behind a full row it is still in it."""
        is_behind = self._at == len(self._lines[self._line]) and self._at and self._at % self.columns == 0
        number = self._at // self.columns - bool(is_behind)
        return number, number * self.columns

    def _down(self) -> None:
        begin = self._row()[1]
        if begin + self.columns < len(self._lines[self._line]):
            self._at = begin + self.columns
            return
        self._line, self._at = self._line + 1, 0
        if self._line == len(self._lines):
            self._lines.append("")

    def _up(self) -> None:
        column, (number, begin) = self._at - self._row()[1], self._row()
        if number:
            self._at = begin - self.columns + column
        elif self._line:
            self._line -= 1
            last = max(0, len(self._lines[self._line]) - 1) // self.columns * self.columns
            self._at = last + column

    def lines(self) -> list[str]:
        """The lines so far, with what has scrolled away; broken rows as one."""
        found = [line.rstrip() for line in self._lines]
        while found and not found[-1]:
            found.pop()
        return found


class Terminal:
    """A pseudo-terminal: commands write on `path`, and `screen` shows what of it stands there."""

    def __init__(self, columns: int, *, echo: bool = False) -> None:
        self._master, self.slave = pty.openpty()
        if not echo:
            tty.setraw(self.slave, termios.TCSANOW)
            mode = termios.tcgetattr(self.slave)
            mode[1] |= termios.OPOST | termios.ONLCR
            termios.tcsetattr(self.slave, termios.TCSANOW, mode)
        self.path, self.screen, self.raw = Path(os.ttyname(self.slave)), Screen(columns), ""
        self._lock = threading.Lock()
        self.resize(columns)
        threading.Thread(target=self._read, daemon=True).start()

    def resize(self, columns: int) -> None:
        """Make it so many columns wide."""
        with self._lock:
            self.screen.columns = columns
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self._master, text.encode())

    def lines(self) -> list[str]:
        """What stands on the screen."""
        with self._lock:
            return self.screen.lines()

    def until(self, there: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the screen shows something; what it shows."""
        end = time.monotonic() + WAIT_SECONDS
        while not there(found := self.lines()):
            assert time.monotonic() < end, "\n".join(found)
            time.sleep(0.01)
        return found

    def shown(self) -> list[str]:
        """What stands on the screen once all that was written so far is there."""
        mark = "(that is all)"
        os.write(self.slave, mark.encode())
        found = self.until(lambda lines: bool(lines) and lines[-1].endswith(mark))
        return [line.removesuffix(mark) for line in found if line != mark]

    def run(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command on it, in a session of which it is the terminal."""
        return subprocess.Popen(
            words, cwd=cwd, env=env, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def _read(self) -> None:
        decoder, pending = codecs.getincrementaldecoder("utf-8")("replace"), ""
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:
                return
            with self._lock:
                text = pending + decoder.decode(chunk)
                half = _HALF.search(text)
                text, pending = (text[: half.start()], half[0]) if half else (text, "")
                self.raw += text
                self.screen.feed(text)
