"""Advice as text and as data: what is seen in the rows, the goal, and each way with its recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ftcli.advise.data_look import DataLook
from ftcli.advise.ranking import Advice
from ftcli.advise.ways import Way
from ftcli.cli import output
from ftcli.data.formats.registry import DATASET_TYPES
from ftcli.plan.step_time import UNKNOWN_TERAFLOPS

Measured = Mapping[int, Mapping[str, Any]]
"""Number of a way, from 1 → what twenty steps of it took, or `why` it was not measured."""


def show(advice: Advice, again: str, measured: Measured, *, as_json: bool) -> None:
    """Print the advice.

    Args:
        again: the words that were typed, to be typed again after `ftcli init`.
    """
    if as_json:
        output.data(as_data(advice, again, measured))
        return
    wanted = advice.wanted
    output.table([("rows", wanted.look.path), *(("", line) for line in seen(wanted.look))], indent="")
    output.table([("goal", f"{wanted.goal.name}: {wanted.goal.how}"), ("on", wanted.card)], indent="")
    for number, way in enumerate(advice.ways, 1):
        output.say()
        _show_way(number, way, again, measured.get(number, {}))
    if advice.left_out:
        output.say()
        output.say("not advised")
        output.table(advice.left_out)


def _show_way(number: int, way: Way, again: str, taken: Mapping[str, Any]) -> None:
    output.say(f"{number}  method={way.method.method} peft={way.adapter.adapter} model={way.model}")
    rows = [("why", way.method.reason), ("", way.adapter.reason)]
    rows += [("judge", way.judge)] if way.judge else []
    rows += [("gives up" if not index else "", text) for index, text in enumerate(way.gives_up())]
    rows += [("memory", _memory(way, taken)), ("time", _time(way, taken)), ("steps", str(way.trial.steps))]
    rows += [("measured", text) for text in _measured(taken)]
    warnings = [*way.trial.warnings, *([f"unusable rows: {way.unusable}"] if way.unusable else [])]
    rows += [("warning", text) for text in warnings]
    rows += [("sources", "; ".join(way.sources())), ("write it", _init(number, again))]
    output.table(rows, indent="   ")
    for line in way.recipe(os.getcwd(), f"{way.name}.yaml").splitlines():
        output.say(f"   | {line}")


def _init(number: int, again: str) -> str:
    return f"ftcli init {again}" + (f" --way {number}" if number > 1 else "")


def seen(look: DataLook) -> Iterator[str]:
    """What is seen in the rows, line by line."""
    first = "" if look.whole else f"the first {look.rows + look.unusable} rows, of which "
    yield f"{first}{look.rows} {DATASET_TYPES[look.kind]} (format {look.format})"
    if look.unusable:
        yield f"{look.unusable} unusable rows: a run refuses them; ftcli data check names them"
    lengths = {"prompts": look.prompt_tokens, "answers" if look.kind != "text" else "texts": look.answer_tokens}
    told = [f"{name} {_lengths(found)}" for name, found in lengths.items() if found.get("max")]
    if told:
        yield f"tokens (estimate): {'; '.join(told)}"
    if look.kind == "label":
        yield f"{look.good} labelled good, {look.rows - look.good} bad"
    if look.turns > 1:
        yield f"up to {look.turns} answers in a row"
    for number, text in (
        (look.tools, "rows with tools"),
        (look.calls, "of them call one"),
        (look.reasoning, "rows with reasoning before the answer"),
        (look.duplicates, "rows repeat an earlier one, or nearly"),
    ):
        if number:
            yield f"{number} {text}"
    if look.repeated_prompts >= 0.01:
        yield f"{look.repeated_prompts:.0%} of the rows repeat an earlier prompt"
    if look.checkable is not None:
        yield f"method.rewards.{look.checkable.rule} can check the answers, by the column {look.checkable.column}"
    for kind, number in look.findings.items():
        yield f"{number} rows: {kind} (ftcli data check shows them)"
    if look.unread:
        yield f"not read: the column{'s' * (len(look.unread) > 1)} {', '.join(look.unread)}"


def _lengths(found: Mapping[str, int]) -> str:
    return f"p50 {found['p50']}, p99 {found['p99']}, longest {found['max']}"


def _memory(way: Way, taken: Mapping[str, Any]) -> str:
    if taken.get("memory_gib") is not None:
        return f"{taken['memory_gib']:.1f} GiB (measured), on {way.wanted.card}"
    memory = way.trial.memory_gib
    return f"{memory:.1f} GiB (estimate), on {way.wanted.card}" if memory is not None else "unknown"


def _time(way: Way, taken: Mapping[str, Any]) -> str:
    if taken.get("seconds") is not None:
        return f"about {output.duration(taken['seconds'])} of training steps (from measured steps)"
    if way.trial.seconds is None:
        told = "unknown: how many rows the stages make, and how long they sample, is seen when they run"
        return told + ("; --hours was not held against it" if way.wanted.hours is not None else "")
    return f"about {output.duration(way.trial.seconds)} of training steps (estimate{_of_rate(way)})"


def _of_rate(way: Way) -> str:
    if way.trial.rate_known:
        return ", at 35% of the card's peak rate"
    if way.wanted.situation.device == "cpu":
        return ", rough: the rate of a CPU is not known"
    return f", as if the card did {UNKNOWN_TERAFLOPS:g} teraflops: its rate is not known"


def _measured(taken: Mapping[str, Any]) -> Iterator[str]:
    if "why" in taken:
        yield f"not: {taken['why']}"
    elif taken:
        first, last = taken["loss"]
        loss = f"; loss {first:.4f} → {last:.4f}" if first is not None and last is not None else ""
        yield f"{taken['steps']} steps in {output.duration(taken['took'])}{loss}"


# --- as data ----------------------------------------------------------------------------------------------------------


def as_data(advice: Advice, again: str, measured: Measured) -> dict[str, Any]:
    """The advice as JSON."""
    wanted = advice.wanted
    return {
        "rows": asdict(wanted.look),
        "goal": {"name": wanted.goal.name, "how": wanted.goal.how},
        "hardware": wanted.card,
        "ways": [way_data(number, way, again, measured.get(number, {})) for number, way in enumerate(advice.ways, 1)],
        "left_out": [{"way": label, "why": why} for label, why in advice.left_out],
    }


def way_data(number: int, way: Way, again: str, taken: Mapping[str, Any]) -> dict[str, Any]:
    """One way as JSON; its figures are measured where they were, else estimates."""
    here, file = os.getcwd(), f"{way.name}.yaml"
    is_measured = taken.get("seconds") is not None
    return {
        "rank": number,
        "method": way.method.method,
        "peft": way.choices.get("peft", "none"),
        "quantisation": next(run.spec.quantisation.type for run, _ in way.trial.runs.values()),
        "model": way.model,
        "settings": dict(way.settings),
        "reasons": [way.method.reason, way.adapter.reason],
        "judge": way.judge or None,
        "gives_up": list(way.gives_up()),
        "sources": list(way.sources()),
        "memory_gib": taken["memory_gib"] if taken.get("memory_gib") is not None else way.trial.memory_gib,
        "seconds": taken["seconds"] if is_measured else way.trial.seconds,
        "seconds_known": is_measured or (way.trial.seconds is not None and way.trial.rate_known),
        "steps": way.trial.steps,
        "measured": dict(taken) or None,
        "warnings": [*way.trial.warnings, *([f"unusable rows: {way.unusable}"] if way.unusable else [])],
        "recipe": way.recipe(here, file),
        "file": file,
        "overrides": list(way.overrides(here)),
        "init": _init(number, again),
        "train": way.command("train", file, here),
    }
