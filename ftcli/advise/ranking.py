"""From a situation to at most three ways: rules that hold, ordered by points, each made to fit or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftcli.advise.adapter_rules import ADAPTER_RULES, ON_CPU, SIZES, STEP_DOWN, AdapterRule, Size
from ftcli.advise.method_rules import METHOD_RULES, MethodRule
from ftcli.advise.situation import Situation, When
from ftcli.advise.trial import Trial, tried
from ftcli.advise.wanted import Wanted
from ftcli.advise.way_text import way_text
from ftcli.advise.ways import Draft, LeftOut, Way, composed_way, row_keys
from ftcli.build.auto_batch import EVAL_SIZE
from ftcli.core.errors import ConfigError, FtcliError, Problem
from ftcli.peft_methods import PEFT_METHODS
from ftcli.plan.measure import measure
from ftcli.settings.batch_plan import AUTO

MOST_WAYS = 3
SAME_METHOD, SAME_ADAPTER = 1.5, 0.6
"""Points that a way loses for each way before it with the same method, or adapter: three ways should differ."""
LEAST_STEPS = 20
"""Steps below which a run is given a smaller batch: a schedule of a few steps has no middle."""
_SETTLED = 5.0
"""Points of a method that the user has settled, for a goal that it is not advised for."""
_HOUR = 3600
# Bytes that a parameter takes at least: with its states in float32, in 16 bits, in 4 bits; what is larger is not tried.
_LEAST_BYTES = {"none": 16.0, "qlora": 0.55}
_CHOSEN_BY_AUTO = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
    *(EVAL_SIZE, "fsdp", "fsdp_config"),
)


@dataclass(frozen=True)
class Advice:
    """The ways, best first, and the better ones that do not fit, with the reason."""

    wanted: Wanted
    ways: tuple[Way, ...]
    left_out: tuple[tuple[str, str], ...]


def drafts(situation: Situation, taken: Mapping[str, str], parameters: int | None) -> list[Draft]:
    """Every method with every adapter that the rules allow, best first; of one method and adapter the best.

    Args:
        taken: groups that the user has chosen.
        parameters: of the model that the user named.
    """
    found: dict[tuple[str, str], Draft] = {}
    for rule in METHOD_RULES:
        own = rule.points.get(situation.goal, _SETTLED if "method" in taken else None)
        if own is None or taken.get("method", rule.method) != rule.method or not rule.when.holds(situation):
            continue
        for adapter in _adapters(rule, situation, taken.get("peft")):
            sizes = _sizes(rule, adapter, situation, parameters)
            draft = Draft(rule, adapter, own + adapter.points, sizes)
            key = (rule.method, adapter.adapter)
            if sizes and (key not in found or found[key].points < draft.points):
                found[key] = draft
    return sorted(found.values(), key=lambda draft: -draft.points)


def _adapters(rule: MethodRule, situation: Situation, settled: str | None) -> Iterator[AdapterRule]:
    """The adapters that are advised with a method; where the user has settled one, that one whatever the rules say."""
    fitting = [adapter for adapter in ADAPTER_RULES if _goes(rule, adapter, situation)]
    if settled is None:
        yield from fitting
        return
    own = [adapter for adapter in fitting if adapter.adapter == settled and adapter.most_parameters is None]
    yield from own or (_settled_adapter(settled),)


def _settled_adapter(name: str) -> AdapterRule:
    """An adapter that the user chose and no rule advises here."""
    known = PEFT_METHODS.get(name)
    reason = known.summary.rstrip(".") if known is not None else "all parameters train"
    paper = (known.paper,) if known is not None and known.paper else ()
    gives_up = "it is your choice: the rules would advise another adapter here"
    return AdapterRule(adapter=name, when=When(), points=0, reason=reason, gives_up=gives_up, sources=paper)


def _goes(rule: MethodRule, adapter: AdapterRule, situation: Situation) -> bool:
    """Whether an adapter is advised with a method in a situation."""
    return (
        (not adapter.methods or rule.method in adapter.methods)
        and (not rule.adapters or adapter.adapter in rule.adapters)
        and (not adapter.goals or situation.goal in adapter.goals)
        and adapter.when.holds(situation)
    )


def _sizes(rule: MethodRule, adapter: AdapterRule, situation: Situation, parameters: int | None) -> list[Size | None]:
    """The models to try, largest first; None is the one that is named."""
    if situation.named_model:
        fits = adapter.most_parameters is None or (parameters or float("inf")) <= adapter.most_parameters
        return [None] if fits else []
    names = [size.instruct for size in SIZES]
    first = names.index(rule.most) - adapter.larger
    if situation.device == "cpu":
        first = names.index(ON_CPU)
    if rule.teacher:
        first = max(first, 1)
    if adapter.most_parameters is None:
        return [*SIZES[max(0, first) :]]
    # A small model of its own accord is advised only where nothing larger would train.
    return [size for size in SIZES if size.parameters <= adapter.most_parameters] if situation.device == "cpu" else []


def advised(wanted: Wanted, say: Callable[[str], None]) -> Advice:
    """At most three ways, best first.

    Args:
        say: is told when a worker is asked about an architecture in no table.

    Raises:
        ConfigError: no rule holds, or what the user has settled fits none of the ways.
    """
    remaining = drafts(wanted.situation, wanted.choices, wanted.parameters)
    if wanted.data_settings() or isinstance(wanted.path, list):
        remaining = [draft for draft in remaining if not draft.method.ready]  # whose stages read rows as they are
    remaining = [draft for draft in remaining if wanted.roles <= draft.method.roles]
    if not remaining:
        raise ConfigError(_no_rule(wanted))
    ways: list[Way] = []
    left_out: list[tuple[str, str]] = []
    refusals: list[FtcliError] = []
    while remaining and len(ways) < MOST_WAYS:
        best = max(remaining, key=lambda draft: _worth(draft, ways))
        if best.way is not None:
            ways.append(best.way)
            remaining.remove(best)
            continue
        try:
            best.way, smaller = _settled(best, wanted, say)
            best.points -= STEP_DOWN * smaller
        except LeftOut as why:
            left_out.append((best.label, str(why)))
            remaining.remove(best)
        except FtcliError as refused:
            refusals.append(refused)
            left_out.append((best.label, refused.problems[0].what))
            remaining.remove(best)
    if not ways and refusals:
        raise refusals[0]
    if not ways:
        problems = [Problem(label, f"is not advised: it {why}", "") for label, why in left_out]
        raise ConfigError(*problems, Problem("ftcli advise", "no way fits", "name a smaller model or a larger card"))
    return Advice(wanted, tuple(ways), tuple(left_out))


def _worth(draft: Draft, ways: list[Way]) -> float:
    """The points of a way beside those that are advised already."""
    same = sum(SAME_METHOD for way in ways if way.method.method == draft.method.method)
    mine = draft.adapter.adapter
    like = [way.adapter.adapter for way in ways]
    same += sum(SAME_ADAPTER for other in like if other == mine)
    return draft.points - same - sum(2 * SAME_ADAPTER for other in like if {mine, other} == {"lora", "rslora"})


def _no_rule(wanted: Wanted) -> Problem:
    settled = {key: value for key, value in wanted.choices.items() if key != "model"}
    settled |= {key: value for key, value in wanted.settings.items() if key.partition(".")[0] in wanted.roles}
    look, typed = wanted.look, " ".join(f"{key}={value}" for key, value in settled.items())
    what = f"no method is advised for {look.kind} rows and the goal {wanted.goal.name}"
    what += f" with {typed}" if typed else ""
    rules = [rule for rule in METHOD_RULES if not rule.when.kinds or look.kind in rule.when.kinds]
    goals = sorted({goal for rule in rules for goal in rule.points})
    return Problem("ftcli advise", what, f"leave out what is settled, or name another goal: {', '.join(goals)}")


# --- one way ----------------------------------------------------------------------------------------------------------


def _settled(draft: Draft, wanted: Wanted, say: Callable[[str], None]) -> tuple[Way, int]:
    """The way with the largest model that fits, and how many sizes smaller than the largest that is.

    Raises:
        LeftOut: none fits.
        ConfigError: it is refused with what the user has settled.
    """
    why, room = "", wanted.situation.room_gib
    for smaller, size in enumerate(draft.sizes):
        parameters = size.parameters if size is not None else float(wanted.parameters or 0)
        least = parameters * _least_bytes(draft, wanted) / 2**30
        if least > room:
            why = f"needs at least {least:.1f} GiB, and {room:.1f} GiB can be used of {wanted.card}"
            continue
        way = _way(draft, size, wanted, say, why if smaller else "")
        needs = way.trial.memory_gib
        if needs is None:
            why = "its memory is unknown, so nobody can say that it fits"
            continue
        if needs > room:
            why = f"needs {needs:.1f} GiB, and {room:.1f} GiB can be used of {wanted.card}"
            continue
        last = smaller == len(draft.sizes) - 1
        if _too_long(way) and not last:
            why = f"takes {_hours(way):.1f} hours, and --hours is {wanted.hours:g}"
            continue
        return (_shortened(draft, way, wanted, say) if _too_long(way) else way), smaller
    raise LeftOut(why or "no model is advised with it")


def _least_bytes(draft: Draft, wanted: Wanted) -> float:
    if wanted.processes > 1:
        return 0.0  # which may share it out
    usual = 2.0 if wanted.situation.device == "cuda" else 4.0
    return _LEAST_BYTES.get(draft.adapter.adapter, usual)


def _hours(way: Way) -> float:
    return (way.trial.seconds or 0.0) / _HOUR


def _too_long(way: Way) -> bool:
    return way.wanted.hours is not None and _hours(way) > way.wanted.hours


def _shortened(draft: Draft, way: Way, wanted: Wanted, say: Callable[[str], None]) -> Way:
    """The way with as many steps as the given hours take.

    Raises:
        LeftOut: it is a pipeline, or the user set the steps.
    """
    assert wanted.hours is not None
    long = f"takes {_hours(way):.1f} hours, and --hours is {wanted.hours:g}"
    if way.method.stages or "train.max_steps" in wanted.settings:
        raise LeftOut(long)
    steps = max(1, int(way.trial.steps * wanted.hours / _hours(way)))
    note = f"the hours take {steps} of the usual {way.trial.steps} steps"
    settings = {**way.settings, "train.max_steps": steps}
    trial = _tried(way.choices, settings, draft.method, wanted, say)
    return replace(way, settings=settings, trial=trial, notes=(*way.notes, note))


def _way(draft: Draft, size: Size | None, wanted: Wanted, say: Callable[[str], None], why: str) -> Way:
    """A way as it is written: with the batch that fits in place of `auto`.

    Args:
        why: why a larger model is not advised; "" where this is the largest.
    """
    choices, settings = composed_way(draft, size, wanted)
    trial = _tried(choices, settings, draft.method, wanted, say)
    written, notes = dict(_written_out(settings, trial)), list[str]()
    if written != settings:
        trial = _tried(choices, written, draft.method, wanted, say)
    if few := _more_steps(written, trial, wanted):
        smaller = _tried(choices, {**written, **few}, draft.method, wanted, say)
        if len(smaller.warnings) <= len(trial.warnings):  # a method may warn of steps of few rows
            notes.append(f"fewer rows a step than usual, for {smaller.steps} steps in place of {trial.steps}")
            written, trial = {**written, **few}, smaller
    if why:
        notes.append(f"the model is smaller than it could be for the method: the next larger one {why}")
    return Way(
        wanted=wanted,
        method=draft.method,
        adapter=draft.adapter,
        size=size,
        choices=choices,
        settings=written,
        trial=trial,
        notes=tuple(notes),
    )


def _more_steps(settings: Mapping[str, Any], trial: Trial, wanted: Wanted) -> dict[str, int]:
    """A smaller batch where the rows make only a few steps of the usual one; {} where they make enough."""
    size, passes = (f"train.{name}" for name in _CHOSEN_BY_AUTO[:2])
    if "" not in trial.runs:
        return {}  # the stages of a pipeline have batches of their own
    run, outlook = trial.runs[""]
    length = ("train.max_steps", "train.num_train_epochs", size, passes)
    settled = run.method.samples or any(name in wanted.settings for name in length)
    if settled or size not in settings or outlook.steps >= LEAST_STEPS:
        return {}
    rows = max(run.method.min_batch, run.batch.rows * outlook.steps // LEAST_STEPS)
    each = max(run.method.min_batch, min(run.batch.per_device, rows))
    return {size: each, passes: max(1, rows // each)}


def _tried(
    choices: Mapping[str, str],
    settings: Mapping[str, Any],
    rule: MethodRule,
    wanted: Wanted,
    say: Callable[[str], None],
) -> Trial:
    text = way_text(["tried"], choices, {**dict.fromkeys(row_keys(rule), wanted.path), **settings})
    trial = tried(text, wanted)
    if trial.memory_gib is None and measure([run.spec for run, _ in trial.runs.values()], say):
        return tried(text, wanted)
    return trial


def _written_out(settings: Mapping[str, Any], trial: Trial) -> Iterator[tuple[str, Any]]:
    """The settings with what ftcli chose for the card in place of `auto`, so that the recipe says what was planned."""
    [*runs] = trial.runs.values()
    key = f"train.{_CHOSEN_BY_AUTO[0]}"
    if settings.get(key) != AUTO:
        yield from settings.items()
        return
    yield from ((name, value) for name, value in settings.items() if name != key)
    run, _ = runs[0]
    tree = run.spec.tree["train"]
    for name in _CHOSEN_BY_AUTO:
        if name == EVAL_SIZE and run.spec.train.get("eval_strategy") == "no":
            continue
        why = next((note.why for note in run.spec.notes if note.key == f"train.{name}"), "")
        noted = why.startswith("chosen with") if name.startswith("fsdp") else bool(why)
        if (value := run.spec.train.get(name)) is not None and noted and tree.get(name) in (None, AUTO):
            yield f"train.{name}", value
