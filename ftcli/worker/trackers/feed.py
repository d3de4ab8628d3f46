"""Feeds the trackers of a run with the lines of metrics.jsonl, which stay the one source.

Each writer lives in a thread of its own, so that a slow server holds up no step; one that fails is told once, and the
training goes on. What a tracker keeps in the run's folder is written anew when a run is resumed, from the lines that
metrics.jsonl keeps: nothing is missing or doubled, whatever a kill left half written. Of what a tracker keeps elsewhere
only later steps are sent.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Full, Queue
from typing import Any

from ftcli import __version__
from ftcli.core.untrusted import foreign_files
from ftcli.core.untrusted.printable import one_line
from ftcli.runs import rundir
from ftcli.settings.groups import GROUPS
from ftcli.settings.run_spec import RunSpec
from ftcli.settings.tracker_declaration import TrackedRun, Tracker, Writer
from ftcli.settings.trackers import TRACKERS, wanted
from ftcli.worker.process.activity import phase
from ftcli.worker.process.own_lines import say

Line = Mapping[str, Any]

_NOT_METRICS = frozenset({"schema", "step"})
_ID = "id"
MOST_BEHIND = 100_000
"""Lines that may wait for a writer."""
PATIENCE_SECONDS = 30.0
"""How long the end of the training waits for what is not written yet."""
_MOST_TEXT = 400
_SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)
_SIGNED = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#]+)\?\S+", re.IGNORECASE)
"""An address with a query, which may be the permission to read it."""


class Feed:
    """The trackers of a run; of a run without any, and of every process but the first, nothing."""

    def __init__(self, spec: RunSpec, run_dir: Path) -> None:
        self._spec, self._run_dir = spec, run_dir
        self._threads: list[_Thread] = []
        self._clock = 0.0
        self._seen: tuple[int, set[str]] = (-1, set())

    def begin(self, kept: Sequence[Line], step: int) -> None:
        """Open the trackers.

        Args:
            kept: the lines that a resumed run keeps.
            step: the step from which it goes on; 0 for one that begins.
        """
        self._clock = time.time() - (kept[-1]["elapsed_seconds"] if kept else 0.0)
        lines = [each for line in kept if (each := self._line(line)) is not None]
        for name in wanted(self._spec.run.trackers):
            settings = (self._spec.run.tracking or {}).get(name) or {}
            folder = self._run_dir / rundir.TRACKERS / name
            self._threads.append(_Thread(TRACKERS[name], settings, folder, self._spec, step, lines))

    def log(self, line: Line) -> None:
        """Pass on a line as metrics.jsonl has it."""
        if self._threads and (each := self._line(line)) is not None:
            for thread in self._threads:
                thread.put(each)

    def close(self) -> None:
        """Let every tracker write what is left, for some seconds."""
        if not self._threads:
            return
        with phase("closing the trackers", shown=False):
            until = time.monotonic() + PATIENCE_SECONDS
            for thread in self._threads:
                thread.end()
            for thread in self._threads:
                thread.wait(max(until - time.monotonic(), 0.1))

    def outcome(self) -> dict[str, Any]:
        """How each tracker ended."""
        return {thread.name: thread.outcome() for thread in self._threads}

    def noted(self) -> dict[str, Any]:
        """What result.json holds of the trackers; nothing of a run without any."""
        return {"trackers": outcome} if (outcome := self.outcome()) else {}

    def _line(self, line: Line) -> tuple[dict[str, float], int, float] | None:
        """The numbers of a line that its step does not have yet, the step, and the time; None for a line without."""
        step = line["step"]
        if self._seen[0] != step:
            self._seen = (step, set())
        metrics = {
            name: value
            for name, value in line.items()
            if name not in _NOT_METRICS | self._seen[1] and type(value) in (int, float)
        }
        self._seen[1].update(metrics)
        return (metrics, step, self._clock + line.get("elapsed_seconds", 0.0)) if metrics else None


class _Thread(threading.Thread):
    """One tracker at work."""

    def __init__(
        self, tracker: Tracker, settings: Mapping[str, Any], folder: Path, spec: RunSpec, step: int, kept: list[Any]
    ) -> None:
        super().__init__(name=tracker.name, daemon=True)
        self._tracker, self._settings, self._folder, self._spec = tracker, settings, folder, spec
        self._begins_at, self._kept = step, kept
        self._queue: Queue[Any] = Queue(MOST_BEHIND)
        self._failed, self._last_step = "", 0
        self._lock = threading.Lock()
        self.start()

    def put(self, line: Any) -> None:
        """Pass a line on."""
        if not self._failed:
            try:
                self._queue.put_nowait(line)
            except Full:
                self._fail(f"it is {MOST_BEHIND} lines behind")

    def end(self) -> None:
        """Say that no line follows."""
        if not self._failed:
            self.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until all is written, or for so long."""
        if not self._failed:
            self.join(seconds)
            if self.is_alive():
                self._fail(f"it had not written everything {PATIENCE_SECONDS:g} seconds after the training")

    def outcome(self) -> dict[str, Any]:
        """Up to which step it kept the curve, and why no further."""
        return {"last_step": self._last_step, **({"failed": self._failed} if self._failed else {})}

    def run(self) -> None:
        """Open the writer, and log until no line follows."""
        try:
            writer = self._opened()
            for metrics, step, seconds in self._lines():
                if self._failed:  # it was given up while it hung
                    return
                if step > writer.logged:
                    writer.log(metrics, step, seconds)
                self._last_step = step
            writer.close()
        except BaseException as error:  # a library's own sys.exit included: no tracker ends the training
            self._fail(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _opened(self) -> Writer:
        if not self._tracker.sends(self._settings):
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        run_dir = self._folder.parent.parent
        run = TrackedRun(
            folder=self._folder,
            name=f"{self._spec.run.name}/{run_dir.name}",
            id=_id_of(self._folder.parent),
            config=config_of(self._spec),
            ledger=hashlib.sha256((run_dir / rundir.LEDGER).read_bytes()).hexdigest(),
            step=self._begins_at,
        )
        opened: Writer = pkgutil.resolve_name(self._tracker.writer)(run, self._tracker.given(self._settings))
        return opened

    def _lines(self) -> Iterator[Any]:
        yield from self._kept
        self._kept = []
        while (line := self._queue.get()) is not None:
            yield line

    def _fail(self, why: str) -> None:
        with self._lock:
            if self._failed:
                return
            self._failed = without_secrets(why)
        say(f"note: the tracker {self.name} keeps nothing more: {self._failed}")


_id_lock = threading.Lock()


def _id_of(folder: Path) -> str:
    """What the run is called where names may be equal, the same in each resume."""
    with _id_lock:
        try:
            found = foreign_files.read_text(folder / _ID, 64).strip()
        except (OSError, ValueError):
            found = ""
        if not re.fullmatch(r"[0-9a-f]{16}", found):
            found = secrets.token_hex(8)  # from the system, as the run's own generators belong to the training
            rundir.write_atomically(folder / _ID, f"{found}\n")
        return found


def config_of(spec: RunSpec) -> dict[str, Any]:
    """The resolved settings of a run, without the queries of addresses: they may be permissions."""
    whole = asdict(spec)
    kept = {name: whole[name] for name in ("choices", *GROUPS, "run", "seed", "launch")}
    return {**_unsigned(kept), "ftcli": __version__}


def _unsigned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _unsigned(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_unsigned(each) for each in value]
    return _SIGNED.sub(r"\1", value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """A library's message on one line, without what variables of the environment hold as keys and tokens."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name):
            text = text.replace(value, "***")
    return one_line(" ".join(_SIGNED.sub(r"\1", text).split()))[:_MOST_TEXT]
