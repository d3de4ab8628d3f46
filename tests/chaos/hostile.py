"""Commands of the front half on hostile files, watched: what they open, start, send, print, and how long they take.

    python -m tests.chaos.hostile FIRST LAST JOURNAL [--save]

A seed that passed with the same code is not run again, so a run that was cut goes on (tests/chaos/journal.py). The
limits that the files meet are counts (tests/core/untrusted, tests/models/templates); time and memory are figures here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.core.untrusted.printable import printable
from tests.chaos import hostile_files, journal
from tests.chaos.journal import REPOSITORY

_SENDS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
)
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "pickle.find_class")


@dataclass(frozen=True, kw_only=True)
class Outcome(journal.Outcome):
    """What came of the commands of one seed; the seconds are processor time."""

    codes: list[int]


class Watch:
    """An audit hook that notes what the code of a case may not do. It cannot be removed, so it is one of a process."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.roots: tuple[str, ...] = ()
        self.case = ""
        library = [sys.prefix, sys.base_prefix, str(REPOSITORY), os.path.dirname(os.__file__), "/usr/share/zoneinfo"]
        self._library = (*map(os.path.realpath, library), "/proc/", "/sys/", "/dev/null", "/dev/urandom")
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.case:
            return
        if event.startswith(_SENDS):
            self.noted.append(f"sends: {event} {arguments[1:]}")
        elif event.startswith(_STARTS):
            self.noted.append(f"starts: {event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            self._opened(os.fsdecode(arguments[0]), arguments[2] or 0)
        elif event == "compile" and isinstance(arguments[1], str) and arguments[1].startswith(self.case):
            self.noted.append(f"compiles {arguments[1]}")

    def _opened(self, name: str, flags: int) -> None:
        path = os.path.realpath(name)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        allowed = self.roots if writes else (*self.roots, *self._library)
        if not path.startswith(allowed):
            self.noted.append(f"{'writes' if writes else 'opens'} {path}")


def carry_out(seed: int, place: Path, watch: Watch) -> Outcome:
    """Draw the files of a seed, and let its commands meet them."""
    folder = place / str(seed)
    folder.mkdir()
    kind, commands = hostile_files.draw(seed, folder)
    codes, seen = [], []
    os.chdir(folder)
    begun = time.process_time()
    for command in commands:
        code, found = typed(command, watch, folder)
        codes.append(code)
        seen += [f"{command}: {each}" for each in found]
    seconds = time.process_time() - begun
    if list(place.rglob(hostile_files.PWNED)):
        seen.append("runs code of a stranger")
    os.chdir(place)
    shutil.rmtree(folder)
    return Outcome(case=str(seed), kind=kind, faults=seen, seconds=round(seconds, 3), codes=codes)


def typed(command: Sequence[str], watch: Watch, folder: Path) -> tuple[int, list[str]]:
    """Run a command under the watch, which lets it into a folder; its exit code and its faults."""
    from ftcli.cli import main

    out, told = io.StringIO(), io.StringIO()
    watch.noted, watch.case = [], os.path.realpath(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
            code = main(command)
    except BaseException as error:
        code = 1
        watch.noted.append(f"raises {type(error).__name__}")
    watch.case = ""
    return code, [*watch.noted, *faults(code, out.getvalue() + told.getvalue())]


def faults(code: int, shown: str) -> Iterable[str]:
    """What is wrong with a command's end and with what it printed."""
    if code not in (0, 2, 3, 5):
        yield f"ends with {code}: {shown[-1500:]}"
    if printable(shown) != shown:
        yield f"prints {next(letter for letter in shown if printable(letter) != letter)!r}"
    if any(line.startswith(hostile_files.FORGED) for line in shown.splitlines()):
        yield "prints a forged line"
    if hostile_files.SECRET in shown:
        yield "shows the environment"


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The outcomes in numbers."""
    seconds = sorted(each["seconds"] for each in found) or [0.0]
    return {
        "cases": len(found),
        "exit_codes": dict(Counter(str(code) for each in found for code in each["codes"]).most_common()),
        "faults": sum(bool(each["faults"]) for each in found),
        "case_seconds": {
            "median": seconds[len(seconds) // 2],
            "p99": seconds[len(seconds) * 99 // 100],
            "most": seconds[-1],
        },
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def main(first: int, last: int, path: Path, *, save: bool) -> int:
    """Carry out the seeds from `first` to before `last` that the journal does not hold yet."""
    log = journal.Journal(path, journal.code_digest("hostile*.py"))
    found = {seed: line for seed, line in log.passed().items() if first <= int(seed) < last}
    with tempfile.TemporaryDirectory() as place:
        root = os.path.realpath(place)
        os.environ |= {
            "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": f"{root}/home", "TMPDIR": root,
            "XDG_CACHE_HOME": f"{root}/cache", "FTCLI_CANARY": hostile_files.SECRET,
        }  # fmt: skip
        tempfile.tempdir = root
        watch = Watch()
        watch.roots = (root, str(path.resolve()))
        for seed in range(first, last):
            if str(seed) not in found:
                found[str(seed)] = log.write(carry_out(seed, Path(root), watch))
        os.chdir(REPOSITORY)
    told, kinds = summary(list(found.values())), journal.by_kind(found.values())
    print(json.dumps({**told, "kinds": kinds}, indent=2))
    if save:
        journal.keep("hostile", kinds, **told)
    return int(told["faults"] > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{journal.RESULT}.json")
    options = parser.parse_args()
    sys.exit(main(options.first, options.last, options.journal.absolute(), save=options.save))
