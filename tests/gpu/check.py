"""The card check: what only a GPU can show, in one command that ends by itself within nine minutes.

    python tests/gpu/check.py                          all stages, in order of worth
    python tests/gpu/check.py --from throughput        a second try, with the models of the first
    python tests/gpu/check.py --device cpu --tiny      the rehearsal: every stage on small models, on a CPU
    python tests/gpu/check.py --keep FILE              keep what it wrote with --out FILE on another machine

It needs torch, transformers, and what ftcli needs beside them: installed, or as wheels in build/wheels (`make
gpu-wheels`), which it unpacks itself. Each stage is a process of its own and prints one line of JSON: name, status
(passed, failed or skipped), seconds, why, what could not be judged here, and figures. The last line sums up; the exit
code is 1 if a stage failed. A stage that the time left is too short for is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.gpu.wheels import unpacked  # noqa: E402, after the path that leads to it

DEADLINE_SECONDS = 530
_CLOSING_SECONDS = 8
"""Kept for ending a stage and summing up."""
RESULTS = REPOSITORY / "benchmarks" / "results" / "card_check.json"


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and short rows")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="leave out the stages before this one")
    parser.add_argument("--only", metavar="STAGE,…", help="run these stages alone")
    parser.add_argument("--deadline", type=float, default=DEADLINE_SECONDS, help="seconds for all of it")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "card_check", help="where it works")
    parser.add_argument("--wheels", type=Path, default=REPOSITORY / "build" / "wheels")
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    parser.add_argument("--save", action="store_true", help=f"keep the results in {RESULTS.relative_to(REPOSITORY)}")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep the lines that another machine wrote with --out"
    )
    options = parser.parse_args(argv)
    if options.save and (options.tiny or options.device != "cuda"):
        parser.error("--save keeps what a card showed, not a rehearsal")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu needs --tiny: models of this size take a CPU hours")
    return options


def prepare(options: argparse.Namespace) -> list[str]:
    """Put the wheels on the path of this process and all others; choose one card. The wheels' names."""
    site = options.folder / "site"
    options.folder.mkdir(parents=True, exist_ok=True)
    names = unpacked(options.wheels, site)
    path = [str(REPOSITORY), str(site), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    sys.path.insert(1, str(site))
    if options.device == "cuda":
        from ftcli.core import hardware

        if cards := hardware.gpus():
            os.environ[hardware.VISIBLE] = hardware.roomiest(cards).uuid
    return names


def chosen(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The stages to run, in order.

    Raises:
        SystemExit: there is no stage of a given name.
    """
    wanted = options.only.split(",") if options.only else [options.first] if options.first else []
    if unknown := [name for name in wanted if name not in names]:
        raise SystemExit(f"no stage {', '.join(unknown)}; stages are {', '.join(names)}")
    if options.only:
        return [name for name in names if name in wanted]
    return list(names[names.index(options.first) :] if options.first else names)


def run_stage(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run one stage in a process of its own, and end it with all that it started when its time is over."""
    command = [
        sys.executable,
        "-m",
        "tests.gpu.stage",
        name,
        str(options.folder),
        options.device,
        str(int(options.tiny)),
    ]
    log = options.folder / f"{name}.log"
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # ftcli's workers are in sessions of their own, and end themselves when their parent is gone.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"status": "failed", "why": f"ended after its {seconds:.0f} seconds: {_tail(log)}"}
    try:
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"status": "failed", "why": f"exit {process.returncode} without an answer: {_tail(log)}"}
    return found


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-600:].strip()


def say(line: dict[str, Any], out: IO[str] | None, folder: Path) -> None:
    """Print one line of JSON at once, here and to the file; where it worked is left out of paths."""
    text = json.dumps(line).replace(f"{folder}{os.sep}", "")
    print(text, flush=True)
    if out is not None:
        out.write(text + "\n")
        out.flush()


def run_all(options: argparse.Namespace, began: float, out: IO[str] | None) -> list[dict[str, Any]]:
    """Run the chosen stages while there is time, a line for each."""
    from tests.gpu.stage import STAGES

    lines = []
    slower = 3 if options.device == "cpu" else 1  # a rehearsal's time is that of starting, on whatever CPU
    for name in chosen(options, list(STAGES)):
        stage, start = STAGES[name], time.monotonic()
        left = options.deadline - _CLOSING_SECONDS - (start - began)
        if left < stage.needs_seconds:
            found: dict[str, Any] = {
                "status": "skipped", "why": f"needs about {stage.needs_seconds} s, and {max(left, 0):.0f} are left",
            }  # fmt: skip
        else:
            found = run_stage(name, options, min(left, slower * stage.budget_seconds))
        lines.append({"stage": name, "seconds": round(time.monotonic() - start, 1), **found})
        say(lines[-1], out, options.folder)
    return lines


def summary(options: argparse.Namespace, lines: Sequence[dict[str, Any]], began: float) -> dict[str, Any]:
    """The closing line."""
    by = {
        status: [line["stage"] for line in lines if line["status"] == status]
        for status in ("passed", "failed", "skipped")
    }
    return {
        "stage": "summary",
        **by,
        "not_judged": sum(len(line.get("not_judged", ())) for line in lines),
        "seconds": round(time.monotonic() - began, 1),
        "device": options.device,
        "tiny": options.tiny,
    }


def save(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Keep the results; of stages that did not run now, those that were kept before.

    Raises:
        SystemExit: the lines are those of a rehearsal.
    """
    if any(line.get("tiny") or line.get("device") == "cpu" for line in lines):
        raise SystemExit("a rehearsal on a CPU is not kept")
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ran = {line["stage"]: line for line in lines if line.get("status") != "skipped"}
    path.write_text(json.dumps({**kept, **ran}, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 1 if a stage failed."""
    began, options = time.monotonic(), parsed(argv)
    if options.keep is not None:
        save([json.loads(line) for line in options.keep.read_text(encoding="utf-8").splitlines()], RESULTS)
        return 0
    options.folder = options.folder.resolve()
    names = prepare(options)
    out = open(options.out, "w", encoding="utf-8") if options.out else None  # noqa: SIM115, closed below
    try:
        say({"stage": "start", "python": sys.version.split()[0], "wheels": names}, out, options.folder)
        lines = run_all(options, began, out)
        closing = summary(options, lines, began)
        say(closing, out, options.folder)
    finally:
        if out is not None:
            out.close()
    if options.save:
        save([*lines, closing], RESULTS)
    return int(bool(closing["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
