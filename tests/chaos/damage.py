"""Damage to checkpoints, then --resume: each is passed over by name, and where none is whole the command ends with 5.

    python -m tests.chaos.damage JOURNAL [--count N] [--kinds KIND,KIND] [--save]

Each kind of damage meets a finished run of which the result and the model are taken away: once its newest checkpoint,
where the run must go on from the one before and end with the same weights, and once all of them, where it must be
refused and nothing in the folder change.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftcli.core.exit_codes import EXIT_CHECKPOINT
from ftcli.runs import rundir
from ftcli.runs.checkpoints import MANIFEST, checkpoint_path, sealed, step_of
from tests.chaos import journal
from tests.chaos.kills import RUN, Bench, at_bench, differences

BASE = "lora"
"""The kind of run whose checkpoints are damaged."""
WEIGHTS, EXACT, OPTIMIZER, SCHEDULER = "adapter_model.safetensors", "adapter_exact.pt", "optimizer.pt", "scheduler.pt"
RNG, PROCESS, STATE = "rng_state.pth", "process_state_0.pt", "trainer_state.json"
FILES = (WEIGHTS, EXACT, OPTIMIZER, SCHEDULER, RNG, PROCESS, STATE)
ELSEWHERE = "elsewhere"
"""A copy of the checkpoints, in the run, since a link out of it is refused wherever it stands."""
LATER = 1000
"""Added to the step of a checkpoint that is given a later name."""


@dataclass(frozen=True)
class Damage:
    """Damages the checkpoint of a path; `elsewhere` has a whole copy of it and of its neighbours."""

    act: Callable[[Path, Path], object]
    reason: str
    """What the message says of it."""
    renamed: bool = False
    """Whether it stands under a later name then."""
    every: bool = True
    """Whether all checkpoints can be damaged so."""


def _flipped(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


def _manifest(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change what a manifest says."""
    said = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    change(said)
    (path / MANIFEST).write_text(json.dumps(said), encoding="utf-8")


def _drop(path: Path, name: str) -> None:
    """Remove a file, and its entry from the manifest, which then agrees with the folder."""
    (path / name).unlink()
    _manifest(path, lambda said: said["files"].pop(name))  # type: ignore[attr-defined]


def _of_two(path: Path) -> None:
    """As two processes save it: a state of the generators each."""
    (path / "rng_state_0.pth").write_bytes((path / RNG).read_bytes())
    _manifest(path, lambda said: said["files"].update({"rng_state_0.pth": said["files"][RNG]}))  # type: ignore
    _drop(path, RNG)


def _foreign(path: Path, elsewhere: Path, name: str) -> None:
    """Put a file of another checkpoint in the place of the one that is there."""
    other = next(each for each in sealed(elsewhere) if each.name != path.name)
    shutil.copy(other / name, path / name)


def _replaced(path: Path, put: Callable[[Path], object]) -> None:
    """Remove a file or folder, and put something else in its place."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    put(path)


def _later(path: Path) -> Path:
    return checkpoint_path(path.parent, (step_of(path) or 0) + LATER)


def _outside(said: dict[str, object]) -> None:
    said["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 1}  # type: ignore[index]


DAMAGES: dict[str, Damage] = {
    **{f"flipped {name}": Damage(lambda p, _, name=name: _flipped(p / name), name) for name in FILES},
    **{
        f"truncated {name}": Damage(lambda p, _, name=name: os.truncate(p / name, 100), name)
        for name in (EXACT, OPTIMIZER)
    },
    **{f"missing {name}": Damage(lambda p, _, name=name: (p / name).unlink(), name) for name in (WEIGHTS, EXACT, RNG)},
    "empty file": Damage(lambda p, _: os.truncate(p / PROCESS, 0), PROCESS),
    "longer file": Damage(lambda p, _: (p / STATE).open("a").write("\n"), STATE),
    "zero bytes": Damage(lambda p, _: (p / OPTIMIZER).write_bytes(bytes((p / OPTIMIZER).stat().st_size)), OPTIMIZER),
    "optimiser of another run": Damage(lambda p, e: _foreign(p, e, OPTIMIZER), OPTIMIZER),
    "missing with its entry": Damage(lambda p, _: _drop(p, EXACT), f"{EXACT} was never saved"),
    "other number of processes": Damage(lambda p, _: _of_two(p), f"{RNG} was never saved"),
    "added weights": Damage(lambda p, _: shutil.copy(p / WEIGHTS, p / "model.safetensors"), "is not in the manifest"),
    "folder for a file": Damage(lambda p, _: _replaced(p / SCHEDULER, Path.mkdir), SCHEDULER),
    "link for a file": Damage(
        lambda p, e: _replaced(p / OPTIMIZER, lambda file: file.symlink_to(e / p.name / OPTIMIZER)), OPTIMIZER
    ),
    "no manifest": Damage(lambda p, _: (p / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "truncated manifest": Damage(lambda p, _: os.truncate(p / MANIFEST, 200), f"{MANIFEST} cannot be read"),
    "zeroed manifest": Damage(lambda p, _: (p / MANIFEST).write_bytes(bytes(64)), f"{MANIFEST} cannot be read"),
    "manifest of nothing": Damage(lambda p, _: (p / MANIFEST).write_text("{}"), "is not a manifest"),
    "other schema": Damage(lambda p, _: _manifest(p, lambda said: said.update(schema=2)), "has schema 2"),
    "other step": Damage(lambda p, _: _manifest(p, lambda said: said.update(step=7)), "is for step 7"),
    "manifest of another": Damage(lambda p, e: _foreign(p, e, MANIFEST), "is for step"),
    "manifest of a file outside": Damage(lambda p, _: _manifest(p, _outside), "is not a manifest"),
    "empty folder": Damage(lambda p, _: _replaced(p, Path.mkdir), f"{MANIFEST} is missing"),
    "file for the folder": Damage(lambda p, _: _replaced(p, Path.touch), "it is a file"),
    "link for the folder": Damage(lambda p, e: _replaced(p, lambda to: to.symlink_to(e / p.name)), "it is a link"),
    "dangling link": Damage(lambda p, _: _replaced(p, lambda to: to.symlink_to("nowhere")), "it is a link"),
    "renamed": Damage(lambda p, _: p.rename(_later(p)), "is for step", renamed=True),
    "copied under a later name": Damage(lambda p, _: shutil.copytree(p, _later(p)), "is for step", True, False),
}
if os.geteuid():  # root reads every file
    DAMAGES["unreadable file"] = Damage(lambda p, _: (p / OPTIMIZER).chmod(0), OPTIMIZER)


def cases() -> list[str]:
    """The names of all cases: `newest:DAMAGE` and `all:DAMAGE`."""
    return [f"{scope}:{name}" for name, each in DAMAGES.items() for scope in ("newest", "all")[: 1 + each.every]]


def halted(whole: Path, folder: Path) -> Path:
    """A run in a folder, like one that is finished, with its checkpoints alone, and a copy of them beside."""
    run = folder / RUN
    shutil.copytree(whole, run)
    shutil.rmtree(run / rundir.MODEL)
    (run / rundir.RESULT).unlink()
    shutil.copytree(whole / rundir.CHECKPOINTS, run / ELSEWHERE)
    return run


def damaged(run: Path, scope: str, damage: Damage) -> list[str]:
    """Damage the newest checkpoint of a run, or all; returns the names under which they stand then."""
    found = sealed(run / rundir.CHECKPOINTS)
    wanted = found if scope == "all" else found[-1:]
    for path in wanted:
        damage.act(path, run / ELSEWHERE)
    return [(_later(path) if damage.renamed else path).name for path in wanted]


def content(run: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file and folder of a run; a link is not followed."""
    found = {}
    for path in sorted(run.rglob("*")):
        mode = path.lstat().st_mode
        found[str(path.relative_to(run))] = (mode, path.read_bytes() if stat.S_ISREG(mode) else b"")
    return found


def carry_out(case: str, bench: Bench) -> journal.Outcome:
    """Damage checkpoints, resume, and see what comes of it."""
    scope, _, name = case.partition(":")
    damage, begun = DAMAGES[name], time.monotonic()
    whole = bench.uninterrupted(BASE)
    run = halted(whole, bench.folder(case.replace(" ", "_")))
    *_, before, newest = (path.name for path in sealed(run / rundir.CHECKPOINTS))
    names = damaged(run, scope, damage)
    as_it_was = content(run)
    code, said = bench.command(("train", "--resume", RUN), run.parent)
    wanted, start = (EXIT_CHECKPOINT, "") if scope == "all" else (0, before if damage.every else newest)
    faults = [] if code == wanted else [f"exit {code} instead of {wanted}"]
    faults += [f"{each} is not named" for each in names if f"{each} is damaged" not in said]
    faults += [f"{each!r} is not said" for each in (damage.reason, f"from {start}" * bool(start)) if each not in said]
    if not faults:
        faults = differences(run, whole) if scope == "newest" else [*_changed(as_it_was, content(run))]
    if faults:
        faults.append(said[-1500:])
    shutil.rmtree(run.parent)
    return journal.Outcome(case=case, kind=name, faults=faults, seconds=round(time.monotonic() - begun, 1))


def _changed(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name} changed"


def main() -> int:
    """Carry out the cases that the journal does not hold yet."""
    options = journal.arguments(__doc__ or "", len(cases()))
    wanted = [case for case in cases() if not options.kinds or case.partition(":")[2] in options.kinds.split(",")]
    log = journal.Journal(options.journal, journal.code_digest("damage.py", "kills.py", "victims.py"))
    with at_bench(options.journal) as bench:
        found = log.through(wanted[: options.count], lambda case: carry_out(case, bench))
    return journal.told("damage", log, found, save=options.save)


if __name__ == "__main__":
    os.chdir(journal.REPOSITORY)
    sys.exit(main())
