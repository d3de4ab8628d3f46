"""The result of a finished run on one screen, and the commands to run next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.cli import output
from ftcli.core.paths import relative
from ftcli.core.text import shell_word
from ftcli.evaluations import record as evaluations
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.publishing import push_record
from ftcli.reports.curves import HELD_OUT, Curve, panels, sparkline
from ftcli.reports.result_rows import result_rows
from ftcli.reports.run_record import RunRecord
from ftcli.runs.profiles.profile_file import TRACE, profile_notes, profile_rows, read_profiles
from ftcli.runs.profiles.profile_file import as_data as profile_data
from ftcli.runs.run_state import DONE

_DRAWN = ("loss", "reward")
"""The panels whose curves are drawn."""


def summary(run: Path, result: Mapping[str, Any], planned: Mapping[str, float | None] | None = None) -> None:
    """Print the result of a finished run; arguments are those of `result_rows`."""
    output.table(result_rows(run, result, planned))


def show(record: RunRecord) -> None:
    """Print what the folder of a run tells, and its loss and reward as lines of blocks."""
    output.table([*record.rows, *_drawn(record)])
    for title, table in evaluations.kept(record.folder):
        output.say(f"measured: {title}")
        if table:
            output.table(table)
    if profiles := read_profiles(record.folder):
        spans = record.folder / TRACE
        where = [f"as spans in {relative(spans)}"] if spans.is_file() else []
        output.say(f"where the seconds went: {'; '.join([*profile_notes(profiles), *where])}")
        output.table(profile_rows(profiles))


def _drawn(record: RunRecord) -> Iterator[tuple[str, str]]:
    """A run's losses and rewards in training and on held-out rows, for a terminal; of a run without, what it has."""
    found = panels({record.name: record.lines})
    for panel in [each for each in found if each.title in _DRAWN] or found[:1]:
        for curve in panel.curves:
            if len(curve.points) > 1:
                ends = f"{curve.points[0][1]:.4g} → {curve.points[-1][1]:.4g}"
                yield f"{_called(curve)} by step", f"{sparkline(curve.points)}  {ends}"


def _called(curve: Curve) -> str:
    """As the other lines of a report call it."""
    return f"held-out {curve.key.removeprefix(HELD_OUT)}" if curve.held_out else curve.key


def as_data(record: RunRecord) -> dict[str, Any]:
    """What the folder of a run tells, for programs: where it stands, and result.json where it is done."""
    state = record.state
    about: dict[str, Any] = {"state": state.name, "step": state.step}
    if state.end is not None and state.name != DONE:
        about["end"] = asdict(state.end)
    result = (record.result or {}) if state.whole else {}
    measured = [found for _, found in evaluations.contents(record.folder) if found is not None]
    about |= {"evaluations": measured} if measured else {}
    if (pushes := push_record.kept(record.folder)) != []:
        about["pushes"] = pushes
    about |= {} if "profile" in result else profile_data(read_profiles(record.folder))
    return {**result, **about, **({"planned": record.planned} if record.planned else {})}


def next_commands(run: Path) -> list[str]:
    """Suggested next commands. An adapter that cannot be merged is not suggested as a base for another run."""
    name = shell_word(relative(run))
    spec = gate.opened(run)
    method, peft = get_method(spec.choices["method"]), peft_method(spec.peft)
    measure = " ".join([f"ftcli eval {name}", *gate.flags_needed(spec, gate.MEASURES)])
    if method.head == "reward_model":
        return [measure, f"ftcli score {name} FILE"]
    commands = [f"ftcli chat {name} --base", measure]
    if peft is None or not peft.adapter or not peft.never_merges:
        commands.append(f"ftcli train method={method.next_method} {shell_word(f'model.name_or_path={relative(run)}')}")
    return commands


def follow_up(run: Path) -> None:
    """Print the suggested next commands under a heading."""
    output.say("next")
    for command in next_commands(run):
        output.say(f"  {command}")
