"""How long data preparation takes: ftcli against TRL, LLaMA-Factory, Axolotl and ms-swift, in turns.

    python benchmarks/tokenise.py [--rows 50000] [--rounds 3] [--only trl ftcli] [--save]

Measured is the wall time from "the rows and the tokenizer are files on disk" to "the tokenised data set for supervised
training is there", in the tool's own process, by the code that its own training or preprocessing command runs (see
peers/prepare_*.py). Not measured: starting Python and imports. Every run has fresh cache folders, so nothing is reused.

All get the same rows (peers/materials.py: 999 Alpaca rows over and over, each with its number in it), as a file of the
kind that the tool reads, the same byte-level BPE and ChatML. Tokens made are counted after the clock has stopped: where
they agree, all did the same work. Axolotl's Alpaca format leaves out the line break after the last turn, one token a
row; ms-swift keeps only the number of tokens and encodes again when it trains (prepare_msswift.py).

Every tool runs with one process and with as many as there are cores, in every round; rounds alternate the order: A B C,
C B A. Reported are medians over rounds, and, round by round, our time as a share of the fastest peer's in whichever
setting was its best: below 1 we are faster. CPU seconds, of all processes of a tool together, tell whether a difference
is work or a neighbour on the machine.

TRL is the installed one. The others get a virtual environment of their own under build/peers, with the versions of
transformers and datasets that they ask for (peers/NAME.txt) and the same build of torch; the first run makes it, some
2 GB each. A peer that cannot be installed is reported with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from common import save, versions
from peers.environment import NotInstallable, python_of
from peers.materials import make_rows, make_tokenizer

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
CORES = len(os.sched_getaffinity(0))
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_DISABLE_TELEMETRY": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "AXOLOTL_IS_PREPROCESS": "1",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Tool:
    """How one tool is run."""

    rows: str
    """The kind of rows file that it reads."""
    num_proc: tuple[int, ...] = (1, CORES)
    alone: tuple[str, ...] = ()
    """Packages installed without their dependencies, which peers/NAME.txt lists instead; none: our environment."""


TOOLS = {
    "ftcli": Tool("alpaca", num_proc=(1,)),
    "trl": Tool("pairs"),
    "llamafactory": Tool("alpaca", alone=("llamafactory==0.9.5",)),
    "axolotl": Tool("alpaca", alone=("axolotl==0.19.0",)),
    "msswift": Tool("alpaca", alone=("ms-swift==4.6.0",)),
}


@dataclass
class Case:
    """One tool with one number of processes, and what its runs told."""

    tool: str
    python: Path
    num_proc: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    """Rows, tokens, version and libraries, the same in every run."""

    @property
    def median_seconds(self) -> float:
        """Over the rounds."""
        return median(self.seconds)

    def run(self, rows: dict[str, Path], tokenizer: Path) -> None:
        """Once, in a fresh process, with empty caches.

        Raises:
            RuntimeError: it ended with an error.
        """
        script = Path(__file__).parent / "peers" / f"prepare_{self.tool}.py"
        arguments = [str(rows[TOOLS[self.tool].rows]), str(tokenizer), str(self.num_proc)]
        with tempfile.TemporaryDirectory(dir=BUILD, ignore_cleanup_errors=True) as folder:
            caches = dict.fromkeys(("HF_HOME", "MODELSCOPE_CACHE", "XDG_CACHE_HOME", "TMPDIR"), folder)
            done = subprocess.run(
                [str(self.python), str(script), *arguments],
                cwd=folder,
                env={**os.environ, **QUIET, **caches},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{script.name} ended with {done.returncode}\n{done.stderr[-3000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        self.seconds.append(told.pop("seconds"))
        self.cpu_seconds.append(told.pop("cpu_seconds"))
        self.about = told

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        told = {name: [round(value, 3) for value in values] for name, values in times.items()}
        told |= {f"median_{name}": round(median(values), 3) for name, values in times.items()}
        return {"tool": self.tool, "num_proc": self.num_proc, **self.about, **told}


def ratios(cases: Iterable[Case]) -> list[float]:
    """Round by round, our time over that of the fastest peer."""
    ours, theirs = [], []
    for case in cases:
        (ours if case.tool == "ftcli" else theirs).append(case.seconds)
    if not ours or not theirs:
        return []
    best, fastest = ([min(times) for times in zip(*each, strict=True)] for each in (ours, theirs))
    return [one / other for one, other in zip(best, fastest, strict=True)]


def table(cases: Iterable[Case], missing: dict[str, str]) -> Iterator[str]:
    """What was found, the fastest first."""
    yield f"{'tool':13}{'version':9}{'processes':>9}{'seconds':>9}{'CPU s':>8}{'rows':>8}{'tokens':>12}  libraries"
    for case in sorted(cases, key=lambda case: case.median_seconds):
        about = case.about
        libraries = ", ".join(map(" ".join, about["libraries"].items()))
        yield (
            f"{case.tool:13}{about['version']:9}{case.num_proc:9}{case.median_seconds:9.1f}"
            f"{median(case.cpu_seconds):8.1f}{about['rows']:8}{about['tokens']:12}  {libraries}"
        )
    for name, reason in missing.items():
        yield f"{name:13}not installable here: {reason}"


def _cases(names: list[str]) -> tuple[list[Case], dict[str, str]]:
    """Every tool with every number of processes, and why some cannot be had."""
    found, missing = [], {}
    for name in names:
        try:
            python = python_of(name, TOOLS[name].alone, BUILD / "peers", metadata.version("torch").split("+")[0])
        except NotInstallable as reason:
            missing[name] = str(reason)
        else:
            found += [Case(name, python, num_proc) for num_proc in dict.fromkeys(TOOLS[name].num_proc)]
    return found, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--demo", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the demo sets")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/tokenise.json")
    options = parser.parse_args()
    if not options.demo.is_dir():
        print(f"not measured: there are no demo sets in {options.demo}")
        return
    cases, missing = _cases(options.only)
    tokenizer = make_tokenizer(BUILD / "tokenise" / "tokenizer", options.demo)
    rows = make_rows(BUILD / "tokenise", options.demo / "alpaca_en_demo.json", options.rows)
    load = os.getloadavg()[0]
    for number in range(options.rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            case.run(rows, tokenizer)
            print(f"round {number + 1}  {case.tool:12} {case.num_proc}  {case.seconds[-1]:7.1f} s", flush=True)
    print("\n".join(table(cases, missing)))
    paired = ratios(cases)
    if paired:
        print(f"ours / fastest peer: median {median(paired):.3f} (limit 1), by round {[round(r, 3) for r in paired]}")
    if options.save:
        result = {"schema": 1, "rows": options.rows, "rounds": options.rounds, "load": load, "versions": versions()}
        result |= {"ratios": paired, "median_ratio": median(paired) if paired else None, "not_installable": missing}
        save("tokenise", result | {"cases": [case.to_dict() for case in cases]})


if __name__ == "__main__":
    main()
