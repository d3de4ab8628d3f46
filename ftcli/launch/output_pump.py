"""Copies what a worker prints to where it is read: its own words to the terminal, and all of it to the run's log.

What libraries print is for those who program with them. It is held back, and told only of a worker that ended without
a word of its own.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ftcli.core.untrusted.printable import beneath, process_output
from ftcli.launch.screen import own_screen
from ftcli.runs.worker_records import MARK, OWN, read

_MARKED = re.compile(f"([^{MARK}{OWN}]*)([{MARK}{OWN}])(.*)", re.DOTALL)
_HELD_LINES = 40
_TRACEBACK = "Traceback (most recent call last)"


class Pump(threading.Thread):
    """Copies the worker's own lines, cleaned, to stderr as they arrive, and all lines to log.txt, without redraws."""

    def __init__(self, source: IO[bytes], log: Path | None) -> None:
        """
        Args:
            log: where all lines are kept; None keeps none.
        """
        super().__init__(daemon=True)
        self.source, self.log, self._screen, self._terminal = source, log, own_screen(), beneath(sys.stderr)
        self._held: deque[str] = deque(maxlen=_HELD_LINES)
        self._has_told, self._known = False, ""
        if self._screen is not None:
            self._screen.begin()
        self.start()

    def finish(self, seconds: float) -> None:
        """Wait for the end of the output, so long at most, and draw no longer."""
        self.join(timeout=seconds)
        if self._screen is not None:
            self._screen.end()

    def leave_out(self, beginning: str) -> None:
        """Show no line of the worker's own that begins so: whoever asked for what it tells knows."""
        self._known = beginning

    def held_back(self) -> str:
        """The last that libraries printed, or Python itself; "" where the worker told of an error of its own."""
        return "" if self._has_told else "\n".join(self._held)

    def run(self) -> None:
        """Copy until the pipe closes."""
        self._keep(())
        decoder, pending = codecs.getincrementaldecoder("utf-8")("backslashreplace"), ""
        while chunk := self.source.read1(65536):  # type: ignore[attr-defined]
            *lines, pending = (pending + decoder.decode(chunk)).split("\n")
            self._keep([kept for line in lines for kept in self._shown(line)])
        if pending:
            self._keep([*self._shown(pending)])

    def _shown(self, line: str) -> Iterator[str]:
        """Show a line of the worker's own, or what its record tells; what the log keeps of it."""
        found = _MARKED.fullmatch(line)
        record = read(found[3]) if found is not None and found[2] == MARK else None
        is_own = found is not None and found[2] == OWN
        if found is None or not (is_own or record is not None):
            yield from self._held_line(line)
            return
        yield from self._held_line(found[1])
        with contextlib.suppress(OSError):  # a closed terminal does not stop the training
            if record is not None and self._screen is not None:
                self._screen.take(record)
            if is_own and not (self._known and found[3].startswith(self._known)):
                self._write(process_output(found[3]))
        if is_own:
            self._has_told |= found[3].startswith(_TRACEBACK)
            yield process_output(found[3])
        elif record is not None and record.line:
            yield process_output(record.line)

    def _write(self, text: str) -> None:
        """Write a line; what begins with a carriage return is drawn in the place of the last one."""
        if self._screen is not None:
            self._screen.write(text.rsplit("\r", 1)[-1] + "\n")
            return
        self._terminal.write(text if text.startswith("\r") else f"{text}\n")
        self._terminal.flush()

    def _held_line(self, line: str) -> Iterator[str]:
        if text := process_output(line).rsplit("\r", 1)[-1].rstrip():
            self._held.append(text)
            yield text

    def _keep(self, lines: Sequence[str]) -> None:
        """Append to the log; a full disk is no reason to stop reading, for which the worker would wait for ever."""
        if self.log is None:
            return
        text = "".join(line.rsplit("\r", 1)[-1] + "\n" for line in lines)
        with contextlib.suppress(OSError), open(self.log, "ab", buffering=0) as log:
            log.write(text.encode())
