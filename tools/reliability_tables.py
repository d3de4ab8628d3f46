"""The tables of docs/reliability.md: what is promised, the constants that it rests on, and the tests that hold it."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcli.core.text import table
from tools import result_tables

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One thing that a user can rely on."""

    what: str
    """With `{NAME}` for each of `constants`."""
    tests: Sequence[str]
    """Files below tests/ that hold it."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Name in the text → module:CONSTANT, below ftcli/."""


PROMISES: Mapping[str, Sequence[Promise]] = {
    "One writer": (
        Promise(
            what="A command takes a run's lock before it writes there; a second one is refused, also while a worker "
            "outlives a killed command. A refusal leaves every byte as it was",
            tests=("runs/test_locks.py", "whole/test_refused.py"),
        ),
    ),
    "A run that goes on": (
        Promise(
            what="A killed run resumes bit for bit (CPU), in a save, at the rename or anywhere else",
            tests=("whole/test_kills.py", "runs/test_checkpoints.py"),
        ),
        Promise(
            what="Changed rows and models, another tokenizer, chat template or end tokens are refused by name; other "
            "versions and devices are told, and kept beside those that the run began with",
            tests=("build/test_run_inputs.py", "worker/process/test_environment.py"),
        ),
        Promise(
            what="A file of a later schema is refused by whatever reads it",
            tests=("runs/test_schemas.py",),
        ),
        Promise(
            what="A pipeline keeps each measured policy, and goes on with the next",
            tests=("whole/test_pipelines.py",),
        ),
    ),
    "How a run ends": (
        Promise(
            what="One table of exit codes, for one process and for several; `end.json` has the code, its cause, the "
            "process, its machine, step and phase",
            tests=("whole/test_exit_codes.py", "launch/test_worker_end.py", "worker/process/test_exhausted.py"),
        ),
        Promise(
            what="A process of several that dies, fails or raises ends the run within {death} seconds, by its name, "
            "step and cause",
            tests=("whole/test_lost_ranks.py", "launch/test_rank_watch.py"),
            constants={"death": "launch.rank_watch:DEATH_SECONDS"},
        ),
        Promise(
            what="One that hangs ends it {hang} seconds, at most, after `hardware.step_timeout_seconds` without "
            "progress, and those that wait for it are told from it",
            tests=("whole/test_lost_ranks.py", "launch/test_rank_watch.py"),
            constants={"hang": "launch.rank_watch:HANG_SECONDS"},
        ),
    ),
    "A run that is stopped": (
        Promise(
            what="Five signals stop every command under their own names, and a run saves first. What has nothing to "
            "finish ends within {leaves} seconds, whatever it waits for; a second signal says what is lost",
            tests=("whole/test_stops.py", "worker/process/test_interruption.py", "runs/test_unsaved.py"),
            constants={"leaves": "worker.process.interruption:LEAVES_WITHIN"},
        ),
        Promise(
            what="What takes longer than {line} seconds tells what it is doing and how far it is",
            tests=("worker/process/test_interruption.py",),
            constants={"line": "worker.process.activity:LINE_SECONDS"},
        ),
    ),
    "Checkpoints": (
        Promise(
            what="A checkpoint is whole or passed over by name: what it must hold follows from the kind of the run, "
            "and links, folders and files beside its manifest count against it",
            tests=("runs/test_checkpoint_kind.py", "runs/test_checkpoints.py"),
        ),
        Promise(
            what="The newest and the best are kept, and a removal that is killed leaves nothing that looks like one",
            tests=("worker/training/test_kept_checkpoints.py", "runs/test_checkpoints.py"),
        ),
        Promise(
            what="`ftcli verify` says what of a run, pipeline, model or checkpoint is not as it was written",
            tests=("whole/test_verify.py",),
        ),
        Promise(what="Files have the modes of the umask", tests=("whole/test_file_modes.py",)),
        Promise(
            what="One that is written in the background is the same, bit for bit; nobody leaves before it is whole, "
            "and a kill leaves the one before",
            tests=("worker/training/test_background_save.py",),
        ),
    ),
    "Disk": (
        Promise(
            what="A run that cannot fit is refused before anything is there; one that fills its disk ends with code 6, "
            "its last checkpoint whole and nothing half-written, and goes on when there is room",
            tests=("whole/test_disk_plan.py", "whole/test_full_disk.py"),
        ),
    ),
    "Not finite": (
        Promise(
            what="A loss, held out too, a gradient's norm, a reward or a trained weight that is not finite ends the "
            "run at its step, before the optimiser and before anything is saved, and names the rows",
            tests=("worker/training/watch/test_finite.py",),
        ),
        Promise(
            what="A loss {spike} standard deviations above the last {window} logged, and one that is 0 without a "
            "gradient {zeros} times, are said once and kept in the result",
            tests=("worker/training/watch/test_loss.py",),
            constants={
                "spike": "worker.training.watch.loss:SPIKE",
                "window": "worker.training.watch.loss:WINDOW",
                "zeros": "worker.training.watch.loss:ZEROS",
            },
        ),
    ),
    "Without a network": (
        Promise(
            what="A model or data set that cannot be had is told before a run folder is made; doctor says what is here",
            tests=("cli/test_hub.py", "cli/test_commands.py"),
        ),
    ),
}


def promises() -> str:
    """Every promise, with the figures of the constants themselves and the tests that hold it."""
    rows = []
    for topic, each in PROMISES.items():
        for number, promise in enumerate(each):
            text = promise.what.format(**{name: _shown(constant(at)) for name, at in promise.constants.items()})
            tests = ", ".join(f"`tests/{name}`" for name in promise.tests)
            rows.append(("" if number else topic, text, tests))
    return table(("", "Promise", "Held by"), rows)


def constant(place: str) -> Any:
    """The value of a module's constant, read and not imported: the worker's modules would import torch."""
    module, _, name = place.partition(":")
    file = _ROOT / "ftcli" / (module.replace(".", "/") + ".py")
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and (found := _values(statement)).keys() >= {name}:
            return found[name]
    raise LookupError(f"{file} has no constant {name}")


def _values(statement: ast.Assign) -> dict[str, Any]:
    """The plain values that a statement gives to names: one, or several side by side."""
    [target], value = statement.targets, statement.value
    both: list[tuple[ast.expr, ast.expr]] = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        both = list(zip(target.elts, value.elts, strict=True))
    return {
        name.id: ast.literal_eval(given)
        for name, given in both
        if isinstance(name, ast.Name) and isinstance(given, ast.Constant)
    }


_COMMANDS = {
    "kills": "killed, and resumed to the weights of the run that nobody killed",
    "damage": "checkpoints damaged, and passed over by name",
    "proofs": "stopped, starved of disk, bereft of a process, or failing: each ends as promised",
    "hostile": "recipes, specs, pipelines and journals of a stranger",
}


def chaos() -> str:
    """What `make chaos` has found, by command and kind."""
    file = _ROOT / "benchmarks" / "results" / "chaos.json"
    if not file.is_file():
        return "Not carried out yet with this version.\n"
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for command, what in _COMMANDS.items():
        for kind, own in found.get(command, {}).get("kinds", {}).items():
            figures = (own["cases"], own.get("in_save", ""), own["passed"], f"{own['seconds']:,.0f}")
            rows.append((what, f"`{kind}`", *map(str, figures)))
            what = ""
    grid = table(("", "Kind", "Cases", "Inside a save", "As promised", "Seconds"), rows)
    return f"{result_tables.measured_with(found['versions'])}\n{grid}"


def _shown(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


REGIONS: Mapping[str, Callable[[], str]] = {"promises": promises, "chaos": chaos}
