"""`--resume RUN` and `--from RUN`: an earlier run's spec as the start of another.

A resume goes on with the same run and takes changes of length and cadence only. `--from` is a new run: without
overrides it reproduces the old one bit for bit on CPU, with overrides it starts from its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcli import fieldcheck, rundir
from ftcli.build import build
from ftcli.compose import Composed, Origin, Request, compose
from ftcli.derive import Notes, derive_run
from ftcli.errors import ConfigError, Problem
from ftcli.methods import get_method
from ftcli.overrides import parse
from ftcli.spec import RunSpec

CHANGEABLE = (
    "max_steps", "num_train_epochs", "save_steps", "save_strategy", "save_total_limit", "eval_steps", "eval_strategy",
    "logging_steps", "logging_strategy",
)  # fmt: skip


def resumed_spec(run: Path, overrides: Sequence[str]) -> RunSpec:
    """The spec of a run to go on with, changed in length and cadence only.

    Raises:
        ConfigError: an override changes anything else, or is itself wrong.
    """
    spec = RunSpec.load(run / rundir.SPEC)
    problems, changes = [], {}
    for text in overrides:
        override = parse(text)
        if override.key[0] == "train" and override.key[-1] in CHANGEABLE and len(override.key) == 2 and not override.delete:
            changes[override.key[1]] = (override.value, text)
        else:
            what = "cannot change when a run goes on; only max steps, epochs and save, eval and log cadence can"
            problems.append(Problem(text, what, f"start a new run with ftcli train --from {run} {text}"))
    values = {key: value for key, (value, _) in changes.items()}
    tree = {**spec.tree, "train": {**spec.tree["train"], **values}}
    origins = {("train", key): Origin(text, "cli") for key, (_, text) in changes.items()}
    composed = Composed(tree=tree, choices=dict(spec.choices), origins=origins, request=Request())
    faulty = fieldcheck.check_group(composed, "train", get_method(spec.choices["method"]), None)
    problems.extend(problem for key, problem in faulty.items() if key in values)
    if problems:
        raise ConfigError(*problems)
    return replace(spec, tree=tree, train={**spec.train, **values})


def spec_from(run: Path, request: Request) -> RunSpec:
    """The spec of a new run like `run`, with the request's overrides laid over it.

    Raises:
        ConfigError: everything that is wrong.
    """
    spec = RunSpec.load(run / rundir.SPEC)
    base: dict[str, Any] = {**spec.tree, "run": {**spec.tree.get("run", {}), "dir": None}}
    where = str(run / rundir.SPEC)
    if not any(not _names_only(text) for text in request.overrides):
        _require_grants(spec, request, where)
        settings = replace(spec.run, dir=None)
        for text in request.overrides:
            override = parse(text)
            settings = replace(settings, **{override.key[1]: override.value})
        fresh = derive_run(settings, spec.choices["method"], spec.choices["model"], spec.model.name_or_path, False, Notes())
        return replace(spec, run=fresh, grants=tuple(sorted(request.grants)))
    return build(compose(replace(request, base=base, base_choices=spec.choices, base_where=where)))


def _names_only(text: str) -> bool:
    return text.lstrip("+").startswith(("run.dir=", "run.name="))


def _require_grants(spec: RunSpec, request: Request, where: str) -> None:
    """A spec file may come from anyone: what needs a grant needs it anew."""
    problems = []
    origins: Mapping[tuple[str, ...], Origin] = {(group,): Origin(where, "run") for group in spec.tree}
    composed = Composed(tree=dict(spec.tree), choices=dict(spec.choices), origins=origins, request=request)
    for group, settings in spec.tree.items():
        for key, value in settings.items() if isinstance(settings, dict) else ():
            problem = fieldcheck.grant_problem(composed, f"{group}.{key}", value, (group, key))
            problems.extend([problem] if problem else [])
    if problems:
        raise ConfigError(*problems)
