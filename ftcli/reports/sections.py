"""What the page of a report shows of a run beside its result and its curves, section by section.

Each reads what it needs of the run's folder by itself: where one file is damaged, the others are shown all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.config.credentials import masked_values
from ftcli.core.errors import FtcliError
from ftcli.core.text import aligned, count, duration, shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.data.ledger_text import ledger_lines
from ftcli.evaluations import record as evaluations
from ftcli.recipes.short_recipe import differing_values
from ftcli.reports import kept_rows
from ftcli.reports.kept_rows import Answered, ShownRow
from ftcli.reports.result_rows import failed_trackers
from ftcli.reports.run_record import RunRecord
from ftcli.runs import rundir
from ftcli.runs.profiles.profile_file import profile_notes, profile_rows, read_profiles
from ftcli.settings.batch_plan import BatchPlan, train_value

_DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section on one run: of a note, a table, text, rows and answers it shows those that it has."""

    title: str
    note: str = ""
    head: tuple[str, ...] = ()
    """Of the table, where it needs one."""
    rows: Sequence[tuple[str, ...]] = ()
    text: str = ""
    shown: tuple[ShownRow, ...] = ()
    answers: tuple[Answered, ...] = ()
    open: bool = False
    """Whether it is unfolded at first."""


def sections(record: RunRecord, *, rows: bool = True) -> list[Section]:
    """The sections on a run.

    Args:
        rows: whether its rows and answers are among them, which not everybody may see who may see its curves.

    Raises:
        ConfigError: a file of it is damaged, or a later version of ftcli wrote it.
    """
    with rundir.stored(record.folder):
        return [*_about(record), *(_of_rows(record.folder) if rows else ()), *_settings(record), *_files(record.folder)]


def _about(record: RunRecord) -> Iterator[Section]:
    result = record.result or {}
    warnings = [("warning", str(each["message"])) for each in result.get("warnings") or ()]
    warnings += [("warning", text) for text in failed_trackers(result)]
    if warnings:
        yield Section(title="Warnings", rows=warnings, open=True)
    for title, table in evaluations.kept(record.folder):
        yield Section(title=f"Measured: {title}", rows=table, text="" if table else title, open=True)
    if (command := _text(record.folder / rundir.COMMAND)) is not None:
        yield Section(title="Command", text=command.removeprefix("#!/bin/sh\n"), open=True)
    if planned := [*_beside_plan(record)]:
        yield Section(title="Plan and reality", head=("", "planned", "done"), rows=planned, open=True)
    if profiles := read_profiles(record.folder):
        head, *rows = profile_rows(profiles)
        note = "; ".join(profile_notes(profiles))
        yield Section(title="Where the seconds went", note=note, head=head, rows=rows, open=True)


def _beside_plan(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """What was planned, in settings or figures, and what came of it."""
    train, result = record.spec.train, record.result or {}
    last = {key: value for line in record.lines for key, value in line.items()}
    most, epochs = train.get("max_steps"), train_value(train, "num_train_epochs")
    done = f"{record.state.step}" + (f", {float(last['epoch']):.3g} epochs" if last.get("epoch") is not None else "")
    yield "steps", f"{most}" if most is not None and most > 0 else f"{float(epochs):g} epochs", done
    batch = BatchPlan.of(train, record.spec.launch.num_processes)
    if record.state.step and last.get("tokens"):
        each = f"{count(round(float(last['tokens']) / record.state.step))} tokens a step"
        yield "batch", f"{batch.rows} rows or blocks a step", each
    parameters = result.get("parameters") or {}
    if parameters.get("total"):
        share = f"{count(parameters['trainable'])} of {count(parameters['total'])}"
        yield "trained parameters", f"peft={record.spec.choices['peft']}", share
    machine, planned = result.get("machine") or {}, record.planned
    if (memory := planned.get("memory_gib")) and machine.get("peak_reserved_gib") is not None:
        yield "memory of the card", f"{memory:.1f} GiB", f"{float(machine['peak_reserved_gib']):.1f} GiB at its peak"
    if (seconds := planned.get("seconds")) and result.get("seconds") is not None:
        yield "time of the steps", duration(seconds), duration(float(result["seconds"]))


def _of_rows(run: Path) -> Iterator[Section]:
    title = "What the model sees"
    try:
        if shown := kept_rows.shown_rows(run):
            note = "The first rows as the run trains on them. Marked text is trained, all else is read only."
            yield Section(title=title, note=note, shown=tuple(shown))
    except _DAMAGE as error:
        yield Section(title=title, text=_damaged(rundir.SHOWN, error))
    title = "Answers before and after"
    try:
        if found := kept_rows.answers(run):
            note = "Greedy answers to held-out questions."
            yield Section(title=title, note=note, answers=tuple(found), open=True)
    except _DAMAGE as error:
        yield Section(title=title, text=_damaged(rundir.ANSWERS, error))


def _settings(record: RunRecord) -> Iterator[Section]:
    try:
        own = [(name, *_values(name, *values)) for name, *values in differing_values(record.spec)]
    except FtcliError as error:  # as where the run is of a version with other settings
        yield Section(title="What differs from the defaults", text=str(error))
    else:
        note = "" if own else "Nothing."
        head = ("", "this run", "default") if own else ()
        yield Section(title="What differs from the defaults", note=note, head=head, rows=own)
    derived = [(each.key, str(each.value), each.why) for each in record.spec.notes]
    yield Section(title="Derived settings", rows=derived)


def _values(name: str, *values: Any) -> Iterator[str]:
    """Values of a setting as text, without passwords."""
    for value in values:
        (shown,) = masked_values({name.rpartition(".")[2]: value}).values()
        yield "" if shown is None else str(shown)


def _files(run: Path) -> Iterator[Section]:
    if (run / rundir.LEDGER).is_file():
        yield Section(title="Rows and quality checks", text=_of(run / rundir.LEDGER, ledger_lines))
    if (run / rundir.ENVIRONMENT).is_file():
        yield Section(title="Environment", text=_of(run / rundir.ENVIRONMENT, _by_name))
    saved = sorted(each.name for each in (run / rundir.CHECKPOINTS).glob("checkpoint-*"))
    if saved:
        about = [("checkpoints", ", ".join(saved)), ("check them with", f"ftcli verify {shell_word(run)}")]
        yield Section(title="Checkpoints", text="\n".join(aligned(about, indent="")))


def _of(file: Path, lines: Callable[[Mapping[str, Any]], Iterable[str]]) -> str:
    """A file as lines; where it is damaged a word on that, since the rest of the report can be shown without it.

    Raises:
        ConfigError: a later version of ftcli wrote it.
    """
    try:
        content = foreign_files.read_json(file)
        if isinstance(content, Mapping):
            rundir.require_known_schema(file, content)
        return "\n".join(lines(content))
    except _DAMAGE as error:
        return _damaged(file.name, error)


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged, or not as ftcli writes it: {type(error).__name__}: {error}"


def _text(file: Path) -> str | None:
    try:
        return foreign_files.read_text(file)
    except (OSError, ValueError):
        return None


def _by_name(content: Mapping[str, Any]) -> list[str]:
    return aligned(_flat(content), indent="")


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings by their dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)
