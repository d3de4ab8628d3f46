"""Commands of the front half on hostile files, watched: what they open, start, send, print, and how long they take.

    python -m tests.chaos.hostile FIRST LAST LOG

LOG gets a JSON line a seed. A seed that passed with the same code is not run again, so a run that was cut goes on. The
limits that the files meet are counts (tests/core/untrusted, tests/models/templates); time and memory are figures here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.untrusted.printable import printable
from tests.chaos import hostile_files

REPOSITORY = Path(__file__).resolve().parents[2]
_SENDS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
)
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "pickle.find_class")


@dataclass(frozen=True)
class Outcome:
    """What came of the commands of one seed."""

    seed: int
    kind: str
    codes: list[int]
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Processor time."""
    digest: str = ""
    """Of the code that ran."""


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
    from ftcli.cli import main

    folder = place / str(seed)
    folder.mkdir()
    kind, commands = hostile_files.draw(seed, folder)
    codes, faults = [], []
    os.chdir(folder)
    begun = time.process_time()
    for command in commands:
        out, told = io.StringIO(), io.StringIO()
        watch.noted, watch.case = [], os.path.realpath(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
                code = main(command)
        except BaseException as error:
            code = 1
            watch.noted.append(f"raises {type(error).__name__}")
        watch.case = ""
        codes.append(code)
        faults += [f"{command}: {each}" for each in (*watch.noted, *_faults(code, out.getvalue() + told.getvalue()))]
    seconds = time.process_time() - begun
    if list(place.rglob(hostile_files.PWNED)):
        faults.append("runs code of a stranger")
    os.chdir(place)
    shutil.rmtree(folder)
    return Outcome(seed, kind, codes, faults, round(seconds, 3), code_digest())


def _faults(code: int, shown: str) -> Iterable[str]:
    """What is wrong with a command's end and with what it printed."""
    if code not in (0, 2, 3, 5):
        yield f"ends with {code}: {shown[-1500:]}"
    if printable(shown) != shown:
        yield f"prints {next(letter for letter in shown if printable(letter) != letter)!r}"
    if any(line.startswith(hostile_files.FORGED) for line in shown.splitlines()):
        yield "prints a forged line"
    if hostile_files.SECRET in shown:
        yield "shows the environment"


_digest = ""


def code_digest() -> str:
    """A hash of the package and of what draws the cases."""
    global _digest
    if not _digest:
        files = sorted([*(REPOSITORY / "ftcli").rglob("*.py"), *Path(__file__).parent.glob("hostile*.py")])
        _digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    return _digest


def carried_out(log: Path) -> dict[int, Outcome]:
    """The outcomes without a fault that an earlier call wrote down for the same code, by seed."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    return {each.seed: each for each in found if each.digest == code_digest() and not each.faults}


def summary(found: list[Outcome]) -> dict[str, Any]:
    """The outcomes in numbers."""
    seconds = sorted(each.seconds for each in found) or [0.0]
    return {
        "cases": len(found),
        "kinds": dict(Counter(each.kind for each in found).most_common()),
        "exit_codes": dict(Counter(code for each in found for code in each.codes).most_common()),
        "faults": sum(bool(each.faults) for each in found),
        "seconds": {
            "median": seconds[len(seconds) // 2],
            "p99": seconds[len(seconds) * 99 // 100],
            "most": seconds[-1],
        },
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def main(first: int, last: int, log: Path) -> int:
    """Carry out the seeds from `first` to before `last` that the log does not hold yet."""
    log.parent.mkdir(parents=True, exist_ok=True)
    found = {seed: each for seed, each in carried_out(log).items() if first <= seed < last}
    with tempfile.TemporaryDirectory() as place, log.open("a", encoding="utf-8") as lines:
        root = os.path.realpath(place)
        os.environ |= {
            "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": f"{root}/home", "TMPDIR": root,
            "XDG_CACHE_HOME": f"{root}/cache", "FTCLI_CANARY": hostile_files.SECRET,
        }  # fmt: skip
        tempfile.tempdir = root
        watch = Watch()
        watch.roots = (root, str(log.resolve()))
        for seed in range(first, last):
            if seed in found:
                continue
            found[seed] = outcome = carry_out(seed, Path(root), watch)
            lines.write(json.dumps(asdict(outcome)) + "\n")
            lines.flush()
            for fault in outcome.faults:
                print(f"FAULT seed {seed} ({outcome.kind}) {fault!r}", flush=True)
        os.chdir(REPOSITORY)
    print(json.dumps(summary(list(found.values())), indent=2))
    return int(any(each.faults for each in found.values()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).absolute()))
