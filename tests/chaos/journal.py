"""A journal of cases, a JSON line each: a call that was cut goes on where it was, and what passed is not run again.

A case passed if its line names no fault and was written with the same code: that of the package and of the modules
that draw the cases and carry them out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, save, versions

REPOSITORY = Path(__file__).resolve().parents[2]
RESULT = "chaos"
"""The file under benchmarks/results."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one case. Each command adds what it measures."""

    case: str
    """Names the case, the same in every call."""
    kind: str
    faults: list[str]
    seconds: float
    digest: str = ""
    """Of the code that ran."""


def code_digest(*modules: str) -> str:
    """A hash of the package and of some of the modules here.

    Args:
        modules: patterns of their file names.
    """
    files = [*(REPOSITORY / "ftcli").rglob("*.py"), Path(__file__)]
    files += [file for each in modules for file in Path(__file__).parent.glob(each)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


class Journal:
    """The lines of a command's cases."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not path.read_bytes().endswith(b"\n"):  # cut while it wrote a line
            with path.open("a", encoding="utf-8") as lines:
                lines.write("\n")

    def passed(self) -> dict[str, dict[str, Any]]:
        """What was written of the cases that passed with this code, by case."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        found = [each for line in lines if (each := _line(line))]
        return {each["case"]: each for each in found if each["digest"] == self.digest and not each["faults"]}

    def write(self, outcome: Outcome) -> dict[str, Any]:
        """Add the line of a case; returns its content."""
        line = asdict(outcome) | {"digest": self.digest}
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        for fault in outcome.faults:
            print(f"FAULT {outcome.case} ({outcome.kind}) {fault!r}", flush=True)
        return line

    def through(self, cases: Sequence[str], carry_out: Callable[[str], Outcome]) -> list[dict[str, Any]]:
        """The lines of cases, each of which is carried out unless it has passed."""
        passed = self.passed()
        return [passed.get(case) or self.write(carry_out(case)) for case in cases]


def _line(text: str) -> dict[str, Any] | None:
    """The content of a line; None where a call was cut while it wrote it."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"case", "digest", "faults"} <= found.keys() else None


def by_kind(found: Iterable[dict[str, Any]], *counted: str) -> dict[str, dict[str, Any]]:
    """Cases, passed cases and seconds of each kind.

    Args:
        counted: marks of a case; how many have each is told too.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for each in sorted(found, key=lambda each: str(each["kind"])):
        kind = kinds.setdefault(each["kind"], dict.fromkeys(("cases", *counted, "passed"), 0) | {"seconds": 0.0})
        kind["cases"] += 1
        kind["passed"] += not each["faults"]
        kind["seconds"] += each["seconds"]
        for mark in counted:
            kind[mark] += bool(each[mark])
    return {name: kind | {"seconds": round(kind["seconds"], 1)} for name, kind in kinds.items()}


def told(name: str, log: Journal, found: Iterable[dict[str, Any]], *counted: str, save: bool) -> int:
    """Print the outcomes of a command, and keep them if wished with those of its other calls; returns its exit code."""
    lines = {each["case"]: each for each in found}
    print(json.dumps(by_kind(lines.values(), *counted), indent=2))
    if save:
        keep(name, by_kind((log.passed() | lines).values(), *counted))
    return int(any(each["faults"] for each in lines.values()))


def keep(name: str, kinds: dict[str, dict[str, Any]], **about: Any) -> None:
    """Put the outcomes of a command into benchmarks/results/chaos.json, beside those of the others."""
    file = RESULTS / f"{RESULT}.json"
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    save(RESULT, {**there, "schema": 1, "versions": versions(), name: {**about, "kinds": kinds}})


def arguments(description: str, count: int) -> argparse.Namespace:
    """What every command here is told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("journal", type=Path, help="gets a JSON line a case")
    parser.add_argument("--count", type=int, default=count, help="carry out so many cases (default: %(default)s)")
    parser.add_argument("--kinds", default="", help="only cases of these kinds, with commas between")
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{RESULT}.json")
    return parser.parse_args()
