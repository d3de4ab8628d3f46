"""Copies what a run's processes print to where it is read: the terminal, and the run's log."""

from __future__ import annotations

import codecs
import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ftcli.core.untrusted.printable import beneath, process_output
from ftcli.launch.screen import Screen, own_screen
from ftcli.runs.worker_records import MARK, read


class Pump(threading.Thread):
    """Copies the worker's output, cleaned, to stderr as it arrives, and to log.txt without redraws of progress."""

    def __init__(self, source: IO[bytes], log: Path) -> None:
        super().__init__(daemon=True)
        self.source, self.log, self._screen = source, log, own_screen()
        if self._screen is not None:
            self._screen.begin()
        self.start()

    def finish(self, seconds: float) -> None:
        """Wait for the end of the output, so long at most, and draw no longer."""
        self.join(timeout=seconds)
        if self._screen is not None:
            self._screen.end()

    def run(self) -> None:
        """Copy until the pipe closes."""
        self._keep(())
        lines = self._lines() if self._screen is None else self._drawn(self._screen)
        while (several := next(lines, None)) is not None:
            self._keep(several)

    def _lines(self) -> Iterator[Sequence[str]]:
        """The lines for the log, while all goes to stderr."""
        pending, terminal = "", beneath(sys.stderr)
        for chunk in self._chunks():
            text = process_output(chunk)
            with contextlib.suppress(OSError):  # a closed terminal does not stop the training
                terminal.write(text)
                terminal.flush()
            *lines, pending = (pending + text).split("\n")
            yield lines
        yield [pending] if pending else []

    def _drawn(self, screen: Screen) -> Iterator[Sequence[str]]:
        """The lines for the log, while the screen takes records, and all else to stand above what it draws."""
        pending = ""
        for chunk in self._chunks():
            *lines, pending = (pending + chunk).split("\n")
            yield [kept for line in lines for kept in self._shown(line, screen)]
        yield [*self._shown(pending, screen)] if pending else []

    def _shown(self, line: str, screen: Screen) -> Iterator[str]:
        """Show a line, or what its record tells; what the log keeps of it."""
        before, mark, told = line.partition(MARK)
        record = read(told) if mark else None
        text = process_output(line if record is None else before)
        with contextlib.suppress(OSError):
            if record is not None:
                screen.take(record)
            if text or record is None:
                screen.write(text.rsplit("\r", 1)[-1] + "\n")
        if text or record is None:
            yield text
        if record is not None and record.line:
            yield process_output(record.line)

    def _chunks(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        while chunk := self.source.read1(65536):  # type: ignore[attr-defined]
            yield decoder.decode(chunk)

    def _keep(self, lines: Sequence[str]) -> None:
        """Append to the log; a full disk is no reason to stop reading, for which the worker would wait for ever."""
        text = "".join(line.rsplit("\r", 1)[-1] + "\n" for line in lines)
        with contextlib.suppress(OSError), open(self.log, "ab", buffering=0) as log:
            log.write(text.encode())
