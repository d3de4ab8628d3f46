"""The plan of a run: what it will be, and of one that goes on what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import output
from ftcli.plan.outlook import Plan
from ftcli.runs.checkpoints import step_of
from ftcli.settings.run_spec import RunSpec


def show(spec: RunSpec, outlook: Plan, *, as_json: bool) -> None:
    """Print a plan, with every derived value and where it came from."""
    if as_json:
        output.data(as_data(spec, outlook))
        return
    print(headline(spec, outlook))
    details(outlook)


def as_data(spec: RunSpec, outlook: Plan) -> dict[str, Any]:
    """A plan as it is printed in JSON."""
    return {"choices": dict(spec.choices), **dataclasses.asdict(outlook)}


def left(outlook: Plan, checkpoint: Path | None) -> dict[str, Any]:
    """Where a resumed run begins and how far it has to go, as data."""
    done = (step_of(checkpoint) if checkpoint else None) or 0
    name = checkpoint.name if checkpoint else None
    return {"checkpoint": name, "steps_done": done, "steps_left": max(0, outlook.steps - done)}


def resumed(outlook: Plan, checkpoint: Path | None) -> str:
    """The same in words."""
    steps = left(outlook, checkpoint)
    start = steps["checkpoint"] or "the start, as no checkpoint was written yet"
    return f"goes on from {start}: {steps['steps_done']} steps are done, {steps['steps_left']} are left"


def details(outlook: Plan, told: Sequence[Mapping[str, Any]] = ()) -> None:
    """All of a plan but the line that names the run, and the derived values that are told elsewhere."""
    about = "" if outlook.tokens_exact else "about "
    kept = f"{outlook.rows_kept} of {outlook.rows}" if outlook.rows_kept != outlook.rows else str(outlook.rows)
    share = f" ({outlook.trainable / outlook.parameters:.2%})" if outlook.trainable and outlook.parameters else ""
    output.table(
        [
            ("trainer", outlook.trainer),
            ("device", f"{outlook.num_processes} × {outlook.device}"),
            ("rows", kept),
            *_packed(outlook),
            ("batch", f"{outlook.global_batch} {'blocks' if outlook.blocks else 'rows'} a step"),
            ("steps", str(outlook.steps)),
            (
                "tokens",
                f"{about}{output.count(outlook.tokens_per_epoch)} an epoch"
                + ("" if outlook.tokens_exact else " (estimate)"),
            ),
            *([("compute", f"about {outlook.flops:.1e} FLOP in training")] if outlook.flops else []),
            ("parameters", f"{output.count(outlook.parameters)}, trains {output.count(outlook.trainable)}{share}"),
        ]
    )
    if outlook.memory:
        named = [f"{part} {value:.2f}" for part, value in outlook.memory.parts().items() if value >= 0.005]
        output.table([("memory", f"{outlook.memory.total_gib:.2f} GiB a process (estimate): {', '.join(named)}")])
    derived([note for note in outlook.notes if note not in told])
    for warning in outlook.warnings:
        print(f"warning: {warning}")


def derived(notes: Sequence[Mapping[str, Any]]) -> None:
    """Values that nobody typed, with where they came from."""
    if notes:
        print("derived")
        output.table([(str(note["key"]), str(note["value"]), str(note["why"])) for note in notes])


def _packed(outlook: Plan) -> list[tuple[str, str]]:
    if not outlook.blocks:
        return []
    return [("packed", f"into about {outlook.blocks} blocks, {outlook.rows_kept / outlook.blocks:.1f} rows each")]


def headline(spec: RunSpec, outlook: Plan) -> str:
    """One line that names the run."""
    return f"{spec.choices['method']} of {outlook.model} on {rows_of(spec)}, peft={spec.peft['name']}"


def rows_of(spec: RunSpec) -> str:
    """What a run trains on, in words."""
    return str(spec.data.path) if spec.data.mix is None else f"a mix of {', '.join(spec.data.mix)}"
