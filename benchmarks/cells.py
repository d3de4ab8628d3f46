"""Cells of a measurement: each in a process of its own, forked after the imports, and kept as a line of a file.

Importing the libraries takes as long as a training of the built-in model. A cell that is in the file is not run again,
so a script that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Work = Callable[[Path], Row]
"""Gets a new folder and returns plain data."""


class Cells:
    """Finished cells in FOLDER/cells.jsonl, each with its key and the processor seconds that it took."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "cells.jsonl"
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []
        self._rows = {row["key"]: row for row in map(json.loads, lines)}

    def of(self, key: str, work: Work) -> Row:
        """The row of a cell, which is run if it is not there.

        Raises:
            RuntimeError: it failed; its output is in the message.
        """
        if key not in self._rows:
            row = {"key": key, **self._run(key, work)}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            self._rows[key] = row
        return self._rows[key]

    def _run(self, key: str, work: Work) -> Row:
        forked = multiprocessing.get_context("fork")
        here, there = forked.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            log = Path(name) / "log.txt"
            process = forked.Process(target=_cell, args=(work, Path(name), log, there))
            process.start()
            there.close()
            try:
                row: Row = here.recv()
            except EOFError:
                process.join()
                text = log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise RuntimeError(f"{key}: exit {process.exitcode}\n{text}") from None
            process.join()
        return row


def _cell(work: Work, folder: Path, log: Path, out: Connection) -> None:
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        row = work(folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        out.send({**row, "processor_seconds": round(used.ru_utime + used.ru_stime, 1)})
