"""The plan of a run, and the remaining steps of a resumed one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcli.build import fitting
from ftcli.build.disk_room import Room, room
from ftcli.cli import output
from ftcli.core.paths import UNNAMED
from ftcli.data.ledger_text import unrolled_text
from ftcli.data.path_list import path_text
from ftcli.plan.outlook import Plan, plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.step_time import USUAL_UTILISATION
from ftcli.runs import provenance
from ftcli.runs.checkpoints import step_of
from ftcli.settings.run_spec import RunSpec

if TYPE_CHECKING:
    from ftcli.build.auto_batch import Candidate

_SHOWN, _UNFIT = 6, 3
"""Batches to choose from that are shown: of those that fit, and of those that do not."""


def show(run: ResolvedRun, outlook: Plan, *, as_json: bool) -> None:
    """Print a plan, with every derived value and its reason."""
    if as_json:
        output.data(as_data(run, outlook))
        return
    output.say(headline(run.spec, outlook))
    verdict = fitting.fit(run, outlook)
    details(outlook, verdict=verdict, there=_room(run, outlook))
    if line := to_fit(run, verdict):
        output.say(line)
    alternatives(run)


def alternatives(run: ResolvedRun) -> None:
    """Print what the batch was chosen from, where it was: each way with its memory and its time beside the chosen."""
    if not run.chooses_batch:
        return
    from ftcli.build.auto_batch import candidates, chosen_of

    found = candidates(run)
    if not found:
        return
    chosen = chosen_of(found, run)
    output.say("batches of the same rows a step, with their time beside the chosen (estimate)")
    shown = [each for each in found if each.fits][:_SHOWN] or list(found[:1])
    shown += [each for each in found if not each.fits and each not in shown][:_UNFIT]
    output.table(
        [
            (each.words, f"{each.total_gib:.1f} GiB", _cost(each, chosen))
            for each in (*shown, *([chosen] if chosen not in shown else []))
        ]
    )


def _cost(each: Candidate, chosen: Candidate) -> str:
    if each == chosen:
        return "chosen"
    return f"{each.seconds / chosen.seconds:.2f} × the time" if each.fits else "does not fit"


def as_data(run: ResolvedRun, outlook: Plan) -> dict[str, Any]:
    """A plan, as data."""
    found = fitting.fit(run, outlook)
    fits = {**dataclasses.asdict(found), "verdict": found.verdict} if found else None
    return {
        "choices": dict(run.spec.choices),
        provenance.KEY: provenance.of_spec(run.spec),
        **dataclasses.asdict(outlook),
        **_unknown(outlook),
        "memory": _memory_data(outlook),
        "fit": fits,
        "disk": _disk_data(run, outlook),
    }


def _unknown(outlook: Plan) -> dict[str, Any]:
    """What a plan does not know, as data: null."""
    of_rows = ("rows", "rows_kept", "blocks", "tokens_per_epoch") if outlook.rows_unknown else ()
    of_steps = ("steps", "flops") if outlook.steps_unknown else ()
    return dict.fromkeys((*of_rows, *of_steps))


def _room(run: ResolvedRun, outlook: Plan) -> Room:
    return room(Path(str(run.spec.run.dir)), [outlook.disk] if outlook.disk else [])


def _disk_data(run: ResolvedRun, outlook: Plan) -> dict[str, Any] | None:
    """What a run writes, as data: its parts, their sum, and the free space where it goes."""
    if outlook.disk is None:
        return None
    free = _room(run, outlook).free_gib
    return {**dataclasses.asdict(outlook.disk), "run_gib": outlook.disk.run_gib, "free_gib": free}


def _memory_data(outlook: Plan) -> dict[str, Any] | None:
    """The memory of a process, as data: its total, the phase that decides, and the parts of each phase, in GiB."""
    if outlook.memory is None:
        return None
    phases = {name: dict(parts) for name, parts in outlook.memory.phases.items()}
    return {"total_gib": outlook.memory.total_gib, "phase": outlook.memory.phase, "phases": phases}


def to_fit(run: ResolvedRun, found: fitting.Fit | None) -> str:
    """The smallest change that makes a run fit its card; "" where it fits."""
    if found is None or found.verdict == "fits":
        return ""
    change = fitting.smaller(run, fitting.TIGHT * found.have_gib)
    if change is None:
        return "neither batch, checkpointing, optimiser nor adapter makes it smaller: shard it, or shorten its rows"
    enough = "to make it fit" if change.total_gib <= fitting.TIGHT * found.have_gib else "what helps, though not enough"
    return f"{enough}: {' '.join(change.settings)}  ({change.total_gib:.1f} GiB)"


def after_memory(run: ResolvedRun) -> list[str]:
    """What the plan of a run expected that ran out of memory, and the settings that help most."""
    outlook = plan(run)
    found = [f"planned: {memory_text(outlook)}"] if outlook.memory else []
    # The estimate was too low, so what fits is unknown: a third less is a step that is seen.
    change = fitting.smaller(run, outlook.memory.total_gib * 2 / 3) if outlook.memory else None
    if change:
        found.append(f"smaller with {' '.join(change.settings)}: {change.total_gib:.2f} GiB")
    return found


def memory_text(outlook: Plan) -> str:
    """The memory of a process, part by part; "" where it is unknown."""
    if outlook.memory is None:
        return ""
    named = [f"{part} {value:.2f}" for part, value in outlook.memory.parts().items() if value >= 0.005]
    # Training decides nearly always, so only another phase is named.
    when = "" if outlook.memory.phase == "training" else f" while {outlook.memory.phase}"
    return f"{outlook.memory.total_gib:.2f} GiB per process{when} (estimate): {', '.join(named)}"


def left(outlook: Plan, checkpoint: Path | None) -> dict[str, Any]:
    """The checkpoint, finished steps and remaining steps of a resumed run, as data."""
    done = (step_of(checkpoint) if checkpoint else None) or 0
    name = checkpoint.name if checkpoint else None
    still = None if outlook.steps_unknown else max(0, outlook.steps - done)
    return {"checkpoint": name, "steps_done": done, "steps_left": still}


def resumed(outlook: Plan, checkpoint: Path | None) -> str:
    """The same as text."""
    steps = left(outlook, checkpoint)
    start = steps["checkpoint"] or "the start, as no checkpoint has been written yet"
    still = "an unknown number of" if steps["steps_left"] is None else steps["steps_left"]
    return f"resumes from {start}: {steps['steps_done']} steps done, {still} left"


def details(
    outlook: Plan,
    shared: Sequence[Mapping[str, Any]] = (),
    *,
    verdict: fitting.Fit | None = None,
    there: Room | None = None,
) -> None:
    """Print a plan without its headline and without the derived values in `shared`, which are printed elsewhere."""
    rows, steps, tokens = _counts(outlook)
    share = f" ({outlook.trainable / outlook.parameters:.2%})" if outlook.trainable and outlook.parameters else ""
    output.table(
        [
            ("trainer", outlook.trainer),
            ("device", f"{outlook.num_processes} × {outlook.device}"),
            ("rows", rows),
            *_unrolled(outlook),
            *_packed(outlook),
            ("batch", f"{outlook.global_batch} {'blocks' if outlook.blocks else 'rows'} per step"),
            ("steps", steps),
            ("tokens", tokens),
            *(
                [("compute", f"about {outlook.flops:.1e} FLOP in training")]
                if outlook.flops and not outlook.steps_unknown
                else []
            ),
            ("parameters", f"{output.count(outlook.parameters)}, trains {output.count(outlook.trainable)}{share}"),
        ]
    )
    sizes = (
        [("memory", memory_text(outlook)), *_on_card(verdict, unknown=outlook.steps_unknown)] if outlook.memory else []
    )
    if outlook.disk:
        least = "; at least, since the steps are unknown" if outlook.steps_unknown else ""
        sizes.append(("disk", str(outlook.disk) + least + (f"; {there.free}" if there else "")))
    output.table(sizes)
    derived([note for note in outlook.notes if note not in shared])
    for warning in outlook.warnings:
        output.say(f"warning: {warning}")


def _counts(outlook: Plan) -> tuple[str, str, str]:
    """Rows, steps and tokens, each as far as it is known."""
    rows = f"{outlook.rows_kept} of {outlook.rows}" if outlook.rows_kept != outlook.rows else str(outlook.rows)
    about = "" if outlook.tokens_exact else "about "
    tokens = f"{about}{output.count(outlook.tokens_per_epoch)} per epoch"
    tokens += "" if outlook.tokens_exact else " (estimate)"
    if outlook.rows_unknown:
        named = [each for each in outlook.rows_unknown if each != UNNAMED]
        missing = f"unknown: {', '.join(named)} is not on this machine" if named else "unknown: still to be named"
        bound = "" if outlook.rows_at_most is None else f"; at most {outlook.rows_at_most} (data.max_rows)"
        rows, tokens = f"{missing}{bound}", "unknown"
    if not outlook.steps_unknown:
        return rows, str(outlook.steps), tokens
    bound = "" if outlook.steps_at_most is None else f"; about {outlook.steps_at_most} at most"
    return rows, f"unknown, as the rows are{bound}", tokens


def _on_card(verdict: fitting.Fit | None, *, unknown: bool) -> list[tuple[str, str]]:
    rows = [("card", str(verdict))] if verdict else []
    if verdict and verdict.seconds and not unknown:
        pace = f"at {USUAL_UTILISATION:.0%} of the card's peak rate"
        rows.append(("time", f"about {output.duration(verdict.seconds)} of training steps (estimate, {pace})"))
    return rows


def derived(notes: Sequence[Mapping[str, Any]]) -> None:
    """Print the derived values with their reasons."""
    if notes:
        output.say("derived")
        output.table([(str(note["key"]), str(note["value"]), str(note["why"])) for note in notes])


def _unrolled(outlook: Plan) -> list[tuple[str, str]]:
    if not outlook.unrolled:
        return []
    about = "" if outlook.tokens_exact else "about "
    return [("unrolled", about + unrolled_text(outlook.unrolled, outlook.unrolled_examples, outlook.repeated_tokens))]


def _packed(outlook: Plan) -> list[tuple[str, str]]:
    if not outlook.blocks or outlook.rows_unknown:
        return []
    return [("packed", f"into about {outlook.blocks} blocks, {outlook.rows_kept / outlook.blocks:.1f} rows each")]


def headline(spec: RunSpec, outlook: Plan) -> str:
    """The line that names the run."""
    return f"{spec.choices['method']} of {outlook.model} on {rows_of(spec)}, peft={spec.peft['name']}"


def rows_of(spec: RunSpec) -> str:
    """The path of the rows that a run trains on, or the names of its mixture."""
    return path_text(spec.data.path) if spec.data.mix is None else f"a mixture of {', '.join(spec.data.mix)}"
