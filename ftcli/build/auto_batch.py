"""`train.per_device_train_batch_size=auto`: the settings with which a step takes least time, among those that fit.

The rows of a step stay the usual ones of the method, so the learning rate keeps its meaning; with
`train.gradient_accumulation_steps` set, they are a device's 8 rows times those. How they are divided into passes is
chosen, and with it what the user left open: gradient checkpointing, and where several GPUs are there, sharding and
offload. Packing and attention are derived as without it: they are on wherever they change no gradient, and then never
slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcli.build.derive import eval_rows
from ftcli.build.fitting import TIGHT
from ftcli.launch.profile import cards
from ftcli.plan.outlook import counted_rows, trainable_parameters
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.plan.run_memory import run_memory, training_pass
from ftcli.plan.sharded_memory import sharding_of
from ftcli.plan.step_time import Rates, step_seconds
from ftcli.settings.batch_plan import ACCUMULATION, SIZE, BatchPlan
from ftcli.settings.run_spec import Note

CHECKPOINTING = "gradient_checkpointing"
EVAL_SIZE = "per_device_eval_batch_size"
_CHOSEN = f"chosen with train.{SIZE}"
_SHARDING: tuple[Mapping[str, Any], ...] = ({}, {"fsdp": True}, {"fsdp": True, "fsdp_config": {"cpu_offload": True}})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to compute a step."""

    settings: Mapping[str, Any]
    """Fields of `train` that it sets."""
    total_gib: float
    seconds: float
    """Estimated time of a step."""
    fits: bool

    @property
    def words(self) -> str:
        """The settings in words: rows of a pass, passes of a step, and what else is on."""
        size, passes = self.settings[SIZE], self.settings[ACCUMULATION]
        found = [f"{size} row{'s' * (size > 1)} × {passes} pass{'es' * (passes > 1)}"]
        found += ["checkpointing"] * bool(self.settings.get(CHECKPOINTING))
        found += ["sharded (fsdp)"] * bool(self.settings.get("fsdp"))
        found += ["offloaded"] * bool(self.settings.get("fsdp_config"))
        return ", ".join(found)


def candidates(run: ResolvedRun, room_gib: float | None = None) -> tuple[Candidate, ...]:
    """Every way to compute a step of the run, the fastest of those that fit first; none where its memory is unknown.

    Args:
        room_gib: memory that a process may take; None: nine tenths of the card's, or of its part of the host's.
    """
    room = _room_gib(run) if room_gib is None else room_gib
    counted, trained = counted_rows(run), trainable_parameters(run)
    if run.shape is None or trained is None or room is None:
        return ()
    card = min(cards(run.spec.launch), key=lambda each: each.memory_gib, default=None)
    rates = Rates.of(card, run.spec.launch.num_threads)
    found = []
    base = _unsharded(run) if _shards_freely(run) else run
    for settings in _grid(run):
        tried = with_settings(base, settings)
        memory = run_memory(tried, trained, counted)
        if memory is None:
            return ()
        how, batch = training_pass(tried, counted), tried.batch
        rows = max(1, counted.pieces)
        seconds = step_seconds(
            run.shape,
            how,
            rates,
            passes=batch.accumulation,
            mean_length=how.length if run.spec.method.get("packing") else min(how.length, counted.tokens / rows),
            trained=trained,
            adapter=run.trains_adapter,
            sharding=sharding_of(
                tried.spec.train, batch.processes, run.shape.hidden_size, accumulates=batch.accumulation > 1
            ),
        )
        fits = memory.total_gib <= room
        found.append(Candidate(settings=settings, total_gib=memory.total_gib, seconds=seconds, fits=fits))
    return tuple(sorted(found, key=lambda each: (not each.fits, each.seconds if each.fits else each.total_gib)))


def settled(run: ResolvedRun) -> ResolvedRun:
    """The run with the fastest settings that fit; where none fits, with those that need least memory."""
    found = candidates(run)
    if not found:
        smallest = min(_grid(run), key=lambda each: (each[SIZE], not each.get(CHECKPOINTING)))
        return _noted(run, smallest, "the memory of this run is unknown: the smallest passes")
    best = found[0]
    if not best.fits:
        return _noted(run, best.settings, f"nothing fits; this needs least, {best.total_gib:.1f} GiB")
    why = f"the fastest of {sum(each.fits for each in found)} ways that fit, {best.total_gib:.1f} GiB (estimate)"
    return _noted(run, best.settings, why)


def chosen_of(found: tuple[Candidate, ...], run: ResolvedRun) -> Candidate:
    """Which of the candidates the run computes with."""
    train = run.spec.train
    own = {name: train[name] for name in (SIZE, ACCUMULATION, CHECKPOINTING, "fsdp", "fsdp_config") if train.get(name)}
    same = (each for each in found if {name: value for name, value in each.settings.items() if value} == own)
    return next(same, next((each for each in found if each.settings.items() <= train.items()), found[0]))


def halved(run: ResolvedRun, how: str) -> ResolvedRun | None:
    """The run with half the rows in each pass and twice the passes; None where a pass has as few rows as it can.

    Args:
        how: with what the memory ran out, and where the run goes on, for the note.
    """
    batch = run.batch
    size = batch.per_device // 2
    divided = replace(batch, per_device=size, accumulation=batch.accumulation * 2)
    if batch.per_device % 2 or size < run.method.min_batch or not _same_answers(run, divided):
        return None
    return _noted(run, {SIZE: size, ACCUMULATION: batch.accumulation * 2}, f"halved: out of memory {how}")


def with_settings(run: ResolvedRun, settings: Mapping[str, Any]) -> ResolvedRun:
    """The run with other values in `train`."""
    return replace(run, spec=replace(run.spec, train={**run.spec.train, **settings}))


def _noted(run: ResolvedRun, settings: Mapping[str, Any], why: str) -> ResolvedRun:
    if run.spec.tree["train"].get(EVAL_SIZE) is None:
        settings = {**settings, EVAL_SIZE: eval_rows(run.method, settings[SIZE])}
    keys = {f"train.{name}" for name in settings}
    rows = run.batch.rows // run.batch.processes
    reasons = {SIZE: why, ACCUMULATION: f"keeps {rows} rows a step on each device"}
    told = [Note(f"train.{name}", value, reasons.get(name, _CHOSEN)) for name, value in settings.items()]
    spec = with_settings(run, settings).spec
    kept = tuple(note for note in spec.notes if note.key not in keys)
    return replace(run, spec=replace(spec, notes=(*kept, *told)))


def _grid(run: ResolvedRun) -> Iterator[dict[str, Any]]:
    """The settings of every candidate: those of `train` that are chosen."""
    given, batch, method = run.spec.tree["train"], run.batch, run.method
    rows = batch.rows // batch.processes
    checkpoints = [bool(run.spec.train.get(CHECKPOINTING))]
    if given.get(CHECKPOINTING) is None and not (run.peft and run.peft.never_checkpoints):
        checkpoints = [False, True]
    shardings = _SHARDING if _shards_freely(run) else _SHARDING[:1]
    for size in range(max(1, method.min_batch), rows + 1):
        sizes = {SIZE: size, ACCUMULATION: rows // size}
        divided = BatchPlan(per_device=size, accumulation=rows // size, processes=batch.processes)
        if rows % size or not _same_answers(run, divided):
            continue
        for checkpointing in checkpoints:
            for sharding in shardings:
                chosen = {CHECKPOINTING: checkpointing} if len(checkpoints) > 1 else {}
                yield {**sizes, **chosen, **sharding}


def _same_answers(run: ResolvedRun, divided: BatchPlan) -> bool:
    """Whether a method that samples generates as many answers at a time with another division of its batch."""
    settings = run.spec.method
    same = divided.answers_per_generation(settings) == run.batch.answers_per_generation(settings)
    return same or not run.method.samples


def _shards_freely(run: ResolvedRun) -> bool:
    """Whether a sharding may be chosen: on several GPUs, where neither the user nor the hardware profile set one."""
    spec = run.spec
    ours = any(note.key == "train.fsdp" and note.why == _CHOSEN for note in spec.notes)
    free = ours or not any(spec.train.get(name) for name in ("fsdp", "fsdp_config", "deepspeed"))
    return free and spec.launch.device == "cuda" and run.batch.processes > 1 and spec.quantisation.type == "none"


def _unsharded(run: ResolvedRun) -> ResolvedRun:
    """The run without the sharding that was chosen for it."""
    train = {name: value for name, value in run.spec.train.items() if name not in ("fsdp", "fsdp_config")}
    return replace(run, spec=replace(run.spec, train=train))


def _room_gib(run: ResolvedRun) -> float | None:
    """Memory that a process may take."""
    if run.spec.launch.device == "cuda":
        known = cards(run.spec.launch)
        return TIGHT * min(each.memory_gib for each in known) if known else None
    import psutil

    return TIGHT * float(psutil.virtual_memory().total) / 2**30 / run.spec.launch.processes_per_node
