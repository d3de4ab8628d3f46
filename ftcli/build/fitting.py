"""Whether a run fits its cards, and the smallest change that makes it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from ftcli.build.derive import derive_peft
from ftcli.core.errors import FtcliError
from ftcli.core.gpu_cards import rate_of
from ftcli.core.untrusted import foreign_files
from ftcli.launch.profile import cards
from ftcli.peft_methods import peft_method
from ftcli.plan.outlook import Plan, plan
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.step_time import USUAL_UTILISATION
from ftcli.runs import rundir
from ftcli.settings.run_spec import Notes, RunSpec

TIGHT = 0.9
"""Share of a card's memory above which the estimate leaves no room for its own error."""
_WORTH = 0.98
"""A change is named only where it leaves at most this share of the memory."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The planned memory of one process beside the smallest of its cards."""

    card: str
    have_gib: float
    needs_gib: float
    free_gib: float
    """What is free of the card now; all of it where the card is not here."""
    seconds: float | None = None
    """Estimated time of the training steps; None where the card's rate or the work is unknown."""

    @property
    def verdict(self) -> str:
        """fits, tight or does not fit."""
        share = self.needs_gib / self.have_gib
        return "does not fit" if share > 1 else "tight" if share > TIGHT else "fits"

    def __str__(self) -> str:
        beside = f"{self.needs_gib:.1f} of {self.have_gib:.1f} GiB on {self.card}"
        taken = self.free_gib < min(self.needs_gib, 0.95 * self.have_gib)
        return f"{self.verdict}: {beside}" + (f"; only {self.free_gib:.1f} GiB are free now" if taken else "")


class Change(NamedTuple):
    """Settings to add to a run, and the memory of one process with them."""

    settings: tuple[str, ...]
    total_gib: float


def fit(run: ResolvedRun, outlook: Plan) -> Fit | None:
    """How the plan compares with the cards; None on a CPU, and where a card or the memory is unknown."""
    known = cards(run.spec.launch)
    if outlook.memory is None or not known:
        return None
    least = min(known, key=lambda each: each.memory_gib)
    free = min(each.free_gib or each.memory_gib for each in known)
    return Fit(
        card=least.name,
        have_gib=least.memory_gib,
        needs_gib=outlook.memory.total_gib,
        free_gib=free,
        seconds=_seconds(run, outlook, rate_of(least.name)),
    )


def expected(run: ResolvedRun, outlook: Plan) -> dict[str, float | None]:
    """The plan in the figures that a run measures of itself.

    Returns:
        `memory_gib` of one process as torch counts it, without the driver's context; `seconds` of the training steps.
    """
    found, memory = fit(run, outlook), outlook.memory
    return {
        "memory_gib": memory.total_gib - memory["cuda_context"] if memory else None,
        "seconds": found.seconds if found else None,
    }


def keep_expected(spec: RunSpec, run: Path) -> None:
    """Write the figures of `expected` into the folder of a run that has just ended on a card.

    A report shows them beside what was measured. It reads the run's folder alone, which may be a stranger's: rows and
    models that a spec names are no business of one who looks at it.
    """
    result = rundir.read_result(run)
    if result is None or (result.get("machine") or {}).get("peak_reserved_gib") is None:
        return
    resolved = ResolvedRun.of(spec)
    with suppress(FtcliError, OSError):  # as where rows or models are gone, or the disk is full
        figures = expected(resolved, plan(resolved))
        rundir.write_json(run / rundir.PLAN, {"schema": rundir.SCHEMAS[rundir.PLAN], **figures})


def kept_expected(run: Path) -> dict[str, float | None]:
    """The figures that `keep_expected` wrote; {} where it wrote none, or they are not as ftcli writes them.

    Raises:
        ConfigError: a later version of ftcli wrote them.
    """
    try:
        content = foreign_files.read_json(run / rundir.PLAN)
        rundir.require_known_schema(run / rundir.PLAN, content)
        found = {name: content[name] for name in ("memory_gib", "seconds")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return found if all(each is None or type(each) in (int, float) for each in found.values()) else {}


def _seconds(run: ResolvedRun, outlook: Plan, teraflops: float) -> float | None:
    if not teraflops or not outlook.flops:
        return None
    # Checkpointing computes each forward pass twice: a third more where all parameters train, a half with an adapter.
    again = (1.5 if run.trains_adapter else 4 / 3) if run.spec.train.get("gradient_checkpointing") else 1.0
    return outlook.flops * again / (USUAL_UTILISATION * teraflops * 1e12 * outlook.num_processes)


class Totals(NamedTuple):
    """The plan of several runs that follow each other; what is unknown of one of them is None."""

    steps: int | None
    flops: float | None
    memory_gib: float | None
    """The most that a process needs in any of them."""
    memory_of: str | None
    """The run that needs it."""
    seconds: float | None
    """Estimated time of all training steps."""


def totals(runs: Mapping[str, tuple[ResolvedRun, Plan]]) -> Totals:
    """The sums over runs by name, and the largest memory among them: they are never in memory together."""
    outlooks = {name: outlook for name, (_, outlook) in runs.items()}
    needs = {name: each.memory.total_gib for name, each in outlooks.items() if each.memory}
    largest = max(needs, key=lambda name: needs[name]) if needs and len(needs) == len(runs) else None
    fits = [fit(*each) for each in runs.values()]
    unknown = any(each.steps_unknown for each in outlooks.values())
    return Totals(
        steps=None if unknown else sum(each.steps for each in outlooks.values()),
        flops=None if unknown else _sum([each.flops for each in outlooks.values()]),
        memory_gib=needs[largest] if largest else None,
        memory_of=largest,
        seconds=None if unknown else _sum([each.seconds if each else None for each in fits]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def smaller(run: ResolvedRun, room_gib: float) -> Change | None:
    """The fewest changes, those that cost least first, with which a process needs at most `room_gib`.

    Where no change is enough, all that help. None where nothing helps, or the memory is unknown.
    """
    needs, made = _total(run), list[_Step]()
    if needs is None:
        return None
    for step in _steps(run):
        if needs <= room_gib:
            break
        after = _total(_changed(run, [*made, step]))
        if after is None:
            break
        if after <= needs * _WORTH:
            needs, made = after, [*made, step]
    if not made:
        return None
    for step in reversed(made[:-1]):  # what a later change makes needless, the dearest first
        rest = [each for each in made if each is not step]
        after = _total(_changed(run, rest))
        if after is not None and after <= max(room_gib, needs):
            needs, made = after, rest
    settings = {word.partition("=")[0]: word for step in made for word in step.settings}
    return Change(tuple(settings.values()), needs)


class _Step(NamedTuple):
    settings: tuple[str, ...]
    change: Callable[[ResolvedRun], ResolvedRun]


def _changed(run: ResolvedRun, steps: list[_Step]) -> ResolvedRun:
    for step in steps:
        run = step.change(run)
    return run


def _total(run: ResolvedRun) -> float | None:
    memory = plan(run).memory
    return memory.total_gib if memory else None


def _steps(run: ResolvedRun) -> Iterator[_Step]:
    """Changes in the order of what they cost: time, then precision of the optimiser, then what trains."""
    batch, checkpoints = run.batch, not (run.peft and run.peft.never_checkpoints)
    if checkpoints and not run.spec.train.get("gradient_checkpointing"):
        yield _Step(("train.gradient_checkpointing=true",), partial(_trained, {"gradient_checkpointing": True}))
    size = batch.per_device
    while size > 1:
        size = size // 2 if size % 2 == 0 else 1
        sizes = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": batch.accumulation * batch.per_device // size,
        }
        words = tuple(f"train.{name}={value}" for name, value in sizes.items())
        yield _Step(words, partial(_trained, sizes))
    if run.spec.launch.device == "cuda":
        yield _Step(("train.optim=paged_adamw_8bit",), partial(_trained, {"optim": "paged_adamw_8bit"}))
    if run.peft is None:
        yield _Step(("peft=lora",), partial(_adapted, name="lora", quantisation="none"))
    if not run.trains_adapter or run.spec.peft.get("name") == "lora":
        yield _Step(("peft=qlora",), partial(_adapted, name="qlora", quantisation="nf4_double"))


def _trained(values: Mapping[str, object], run: ResolvedRun) -> ResolvedRun:
    return replace(run, spec=replace(run.spec, train={**run.spec.train, **values}))


def _adapted(run: ResolvedRun, name: str, quantisation: Literal["none", "nf4_double"]) -> ResolvedRun:
    """The run with another adapter, at its defaults."""
    chosen = {"name": name}
    declared = peft_method(chosen)
    peft = {**derive_peft(chosen, declared, run.shape, Notes()), **chosen}
    spec = replace(run.spec, peft=peft, quantisation=replace(run.spec.quantisation, type=quantisation))
    return replace(run, spec=spec, peft=declared)
