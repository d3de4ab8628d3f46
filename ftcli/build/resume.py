"""`--resume RUN` and `--from RUN`: start from the spec of an earlier run.

`--resume` continues the same run; only its length and cadence may change. `--from` starts a new run: without overrides
it reproduces the old one bit for bit on CPU, with overrides it starts from its configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli.build import gate
from ftcli.build.checks import cadence, field_checks, trainer_rules
from ftcli.build.checks.cross_group import name_problems
from ftcli.build.derive import derive_run
from ftcli.build.derive_training import replayed_of
from ftcli.build.inputs import moved_inputs
from ftcli.build.resolve import build
from ftcli.config.compose import Composed, Request, compose
from ftcli.config.overrides import parse
from ftcli.config.tree import Origin
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.strict_yaml import KeyPath
from ftcli.core.text import shell_word
from ftcli.core.untrusted import foreign_files
from ftcli.launch.nodes import OWN as OF_NODES
from ftcli.methods import get_method
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.plan.outlook import num_steps
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.runs.checkpoints import newest_valid, step_of
from ftcli.runs.measured_attention import as_measured
from ftcli.settings.groups import RunSettings
from ftcli.settings.run_spec import Notes, RunSpec

CHANGEABLE = (
    "train.max_steps", "train.num_train_epochs", "train.save_steps", "train.save_strategy", "train.save_total_limit",
    "train.eval_steps", "train.eval_strategy", "train.logging_steps", "train.logging_strategy",
)  # fmt: skip
_WHERE = (*OF_NODES, "step_timeout_seconds")
"""The settings of `hardware` that a resume may change: they say nothing of what is trained."""
LENGTH = ("max_steps", "num_train_epochs")
"""The `train` settings that say how long a run is."""


def resumed_spec(run: Path, overrides: Sequence[str], grants: frozenset[str] = frozenset()) -> RunSpec:
    """The spec of a run that is resumed, changed in length and cadence, and in where and how long its nodes wait.

    Raises:
        ConfigError: an override changes anything else or is itself wrong; or the run needs a grant, which only the
            command line can give.
    """
    raw = gate.composed_anew(run)
    moved = moved_inputs.moved(raw, run, values_of(overrides), resumes=True)
    where = str(run / rundir.SPEC)
    spec = gate.admitted(moved_inputs.with_places(raw, moved.places), where, grants, gate.TRAINS)
    problems: list[Problem] = []
    changes, places = {}, {}
    for text in without(overrides, moved.typed):
        try:
            override = parse(text)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if override.name in CHANGEABLE and not override.delete:
            changes[override.key[1]] = (override.value, text)
        elif override.name.removeprefix("hardware.") in _WHERE and not override.delete:
            places[override.key[1]] = (override.value, text)
        else:
            what = "cannot change on resume; only max steps, epochs and the save, eval and log cadence can"
            problems.append(
                Problem(text, what, f"start a new run with ftcli train --from {shell_word(run)} {shell_word(text)}")
            )
    values = {key: value for key, (value, _) in changes.items()}
    tree = {**spec.tree, "train": {**spec.tree["train"], **values}}
    origins: dict[KeyPath, Origin] = {("train", key): Origin(text, "cli") for key, (_, text) in changes.items()}
    tree["hardware"] = {**tree.get("hardware", {}), **{key: value for key, (value, _) in places.items()}}
    origins |= {("hardware", key): Origin(text, "cli") for key, (_, text) in places.items()}
    composed = Composed(tree=tree, choices=dict(spec.choices), origins=origins, request=Request(grants=grants))
    faulty = field_checks.check_group(composed, "train", get_method(spec.choices["method"]), None)
    problems.extend(problem for key, problem in faulty.items() if key in values)
    faulty = field_checks.check_group(composed, "hardware", get_method(spec.choices["method"]), None)
    problems.extend(problem for key, problem in faulty.items() if key in places)
    of_nodes: dict[str, Any] = {} if problems else {key: value for key, (value, _) in places.items()}
    changed = replace(spec, tree=tree, train={**spec.train, **values})
    changed = replace(changed, hardware=replace(spec.hardware, **of_nodes))
    if values and not problems:
        problems = _disagreements(spec, changed, composed, where)
        problems += _fewer_steps(run, changed, [text for key, (_, text) in changes.items() if key in LENGTH])
    if problems:
        raise ConfigError(*problems)
    return changed


def adopted(run: Path, overrides: Sequence[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Write into a copied run where what it read lies here, before it is resumed.

    Returns:
        The overrides without those that only say so.

    Raises:
        ConfigError: something is not here, or is not what the run read; or the run is in use.
    """
    spec = gate.composed_anew(run)
    moved = moved_inputs.moved(spec, run, values_of(overrides), resumes=True)
    if moved.places:
        with rundir.exclusive(run):
            moved_inputs.adopt(run, spec, moved.places)
        for note in moved.notes:
            say(f"{run}: {note.key} is {note.value} here ({note.why})")
    return without(overrides, moved.typed)


def without(overrides: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """The overrides that do not set one of these names."""
    return tuple(text for text in overrides if text.lstrip("+").partition("=")[0] not in names)


def has_steps_left(run: Path, spec: RunSpec) -> bool:
    """Whether a resume with this spec would train a finished run any further."""
    done, planned = _steps_done(run, spec), _steps_planned(run, spec)
    return done is None or planned is None or planned > done


def _fewer_steps(run: Path, spec: RunSpec, texts: Sequence[str]) -> Iterator[Problem]:
    """A new length that would have ended before now: what was trained since cannot be undone."""
    if not texts:
        return
    done, planned = _steps_done(run, spec), _steps_planned(run, spec)
    if done is None or planned is None or planned >= done:
        return
    what = f"makes {planned} steps, and {run} has trained {done} already"
    new = " ".join(map(shell_word, texts))
    fix = f"give it more than {done}, or start a new run with ftcli train --from {shell_word(run)} {new}"
    yield Problem(" ".join(texts), what, fix)


def _steps_done(run: Path, spec: RunSpec) -> int | None:
    """The steps of a finished run, or those of the checkpoint from which it would resume; None before the first."""
    result = rundir.read_result(run)
    if result is not None:
        return int(result["steps"])
    newest, _ = newest_valid(run / rundir.CHECKPOINTS, files_to_resume(spec), digests=False)
    return step_of(newest) if newest is not None else None


def _steps_planned(run: Path, spec: RunSpec) -> int | None:
    """The steps that a run has by its length, as its rows were counted when it began; None where they were not."""
    if (most := spec.train.get("max_steps")) is not None:
        return int(most)
    try:
        rows = foreign_files.read_json(run / rundir.LEDGER)["train"]["sequences"]
    except (OSError, ValueError, KeyError, TypeError):  # it was stopped before it had counted them
        return None
    return num_steps(ResolvedRun.of(spec), int(rows))


def _disagreements(before: RunSpec, after: RunSpec, composed: Composed, where: str) -> list[Problem]:
    """What a changed length or cadence contradicts, or why it has no effect, beside what the run has anyway."""
    unchanged = replace(composed, tree=dict(before.tree), origins={})
    known = {each.what for each in _cadence(before, unchanged)}
    found = [replace(each, where=each.where or where) for each in _cadence(after, composed) if each.what not in known]
    return [_of_length(each) for each in found]


def _of_length(problem: Problem) -> Problem:
    """Of a run whose length is a number of steps, which a resume cannot drop to count in epochs."""
    if not problem.what.startswith("train.num_train_epochs has no effect beside"):
        return problem
    return replace(problem, fix="set train.max_steps, which says how long this run is")


def _cadence(spec: RunSpec, composed: Composed) -> Iterator[Problem]:
    run = ResolvedRun.of(spec)
    for rules in (cadence, trainer_rules):
        yield from rules.problems(run, composed, lambda dotted: composed.where(*dotted.split(".")))


def spec_from(run: Path, request: Request) -> RunSpec:
    """The spec of a new run like `run`, with the request's overrides laid over it.

    Raises:
        ConfigError: every problem at once.
    """
    where = str(run / rundir.SPEC)
    spec, notes = moved_inputs.located(gate.composed_anew(run), run, values_of(request.overrides))
    if all(_names_only(text) for text in request.overrides):
        admitted = gate.admitted(spec, where, request.grants, gate.TRAINS)
        admitted = replace(admitted, notes=(*admitted.notes, *notes))
        return _renamed(as_measured(admitted, run), request, where)
    base: dict[str, Any] = {**spec.tree, "run": {**spec.tree.get("run", {}), "dir": None}}
    try:
        earlier = replayed_of(gate.admitted(spec, where, frozenset(), ()))
    except ConfigError:  # what does not pass is derived anew
        earlier = {}
    request = replace(request, base=base, base_choices=spec.choices, base_where=where, base_resolved=earlier)
    made = build(compose(request)).spec
    return replace(made, notes=(*made.notes, *notes))


def values_of(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides set, by name; what cannot be read is told where it is composed."""
    found = {}
    for text in overrides:
        with suppress(ConfigError):
            override = parse(text)
            found[override.name] = override.value
    return found


def _names_only(text: str) -> bool:
    return text.lstrip("+").startswith(("run.dir=", "run.name="))


def _renamed(spec: RunSpec, request: Request, where: str) -> RunSpec:
    """The same spec under another name or directory."""
    given = {override.key[1]: override for override in map(parse, request.overrides)}
    values, origins = gate.values_of(spec, where)
    values["run"] |= {"dir": None} | {key: override.value for key, override in given.items()}
    origins |= {("run", key): Origin(override.text, "cli") for key, override in given.items()}
    composed = Composed(tree=values, choices=dict(spec.choices), origins=origins, request=request)
    problems = [*field_checks.check_group(composed, "run", get_method(spec.choices["method"]), None).values()]
    if not problems:
        settings = RunSettings(**values["run"])
        names = (spec.choices["method"], spec.choices["model"], spec.model.name_or_path)
        spec = replace(spec, run=derive_run(settings, *names, False, Notes()))
        problems = name_problems(str(spec.run.name), composed.where("run", "name"))
    if problems:
        raise ConfigError(*problems)
    return spec
