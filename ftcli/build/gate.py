"""The one gate before a run's folder: every command that acts on a spec.json takes the spec from here.

Such a folder may come from anyone, and the worker acts on the resolved values in it. So each value is checked again as
if a stranger had typed it: it exists, is not set elsewhere, has its type and its limits, and whatever needs a grant
needs it on this command line; the grants that the file itself lists count for nothing. What ftcli writes in the folder
must lie in it, and not behind a link.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ftcli.build.checks import adapter, data, field_checks, hardware_rules, mappings
from ftcli.build.checks.cross_group import name_problems
from ftcli.config.compose import DECLARED, Composed, Request
from ftcli.config.tree import Origin
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.plugins import plugin_loading
from ftcli.core.strict_yaml import KeyPath
from ftcli.launch.profile import PROCESSES_ON_CPU
from ftcli.methods import get_method
from ftcli.peft_methods import peft_method
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.settings import tracker_problems
from ftcli.settings.batch_plan import AUTO, SIZE
from ftcli.settings.groups import GROUPS
from ftcli.settings.limits import Limit
from ftcli.settings.ownership import ATTENTION, FLAGS
from ftcli.settings.run_spec import LaunchPlan, RunSpec

TRAINS: Sequence[str] = (*GROUPS, "run")
"""The groups that training acts on."""
MEASURES = ("method",)
"""The groups that measuring acts on: rewards and judges. A model's own permission is given anew, or not at all."""

MOST_PROCESSES = 65_536
_LAUNCH = {
    "num_processes": Limit(low=1, high=MOST_PROCESSES),
    "num_nodes": Limit(low=1, high=MOST_PROCESSES),
    "max_restarts": Limit(low=0, high=MOST_PROCESSES),
    "num_threads": Limit(low=1, high=MOST_PROCESSES),
}


def opened(run: Path, grants: frozenset[str] = frozenset(), acts: Sequence[str] = ()) -> RunSpec:
    """The spec in a run's folder, checked as a stranger's, with the grants of this command line alone.

    Args:
        grants: the flags of this command line.
        acts: the groups on whose values the command acts; in the others a value that needs a grant is only read.

    Raises:
        ConfigError: every problem in it.
    """
    rundir.require_own_files(run)
    return admitted(RunSpec.load(run / rundir.SPEC), str(run / rundir.SPEC), grants, acts)


def admitted(spec: RunSpec, where: str, grants: frozenset[str], acts: Sequence[str]) -> RunSpec:
    """A spec that was read from a file, once it has passed; arguments and errors are those of `opened`."""
    require_choices(spec, where)
    if "train" in acts and any(not what.startswith("package ") for what in spec.plugins.values()):
        problems = _missing_plugins(spec, where)
        if problems:
            raise ConfigError(*problems)
    problems = [*_value_problems(spec, where, grants, acts), *_launch_problems(spec.launch, where)]
    problems = problems or [*_started_problems(spec, where, acts), *_inside_problems(spec, where, acts)]
    problems = problems or [*_unsettled_problems(spec, where, acts), *_unfit_problems(spec, where, acts)]
    if problems:
        raise ConfigError(*problems)
    return replace(spec, grants=tuple(sorted(grants)))


def flags_needed(spec: RunSpec, acts: Sequence[str] = TRAINS) -> list[str]:
    """The flags without which a command refuses a run with this spec: they count on each command line anew.

    Args:
        acts: the groups on whose values the command acts; those of a resume.
    """

    def passes(granted: frozenset[str]) -> bool:
        try:
            admitted(spec, "", granted, acts)
        except ConfigError:
            return False
        return True

    # Most runs need none, which one look tells.
    return [] if passes(frozenset()) else [flag for flag in sorted(FLAGS) if not passes(FLAGS - {flag})]


def composed_anew(run: Path) -> RunSpec:
    """The spec in a run's folder for one who reads its tree and choices alone, and composes and checks them anew.

    Raises:
        ConfigError: it is no spec, or has a method that this version does not have.
    """
    rundir.require_own_files(run)
    spec = RunSpec.load(run / rundir.SPEC)
    require_choices(spec, str(run / rundir.SPEC))
    return spec


def require_choices(spec: RunSpec, where: str) -> None:
    """Check that this version has the method and the PEFT method of a run.

    Raises:
        ConfigError: it does not.
    """
    for group, known in DECLARED.items():
        if spec.choices.get(group) not in known:
            what = f"uses {group}={spec.choices.get(group)}, which this version of ftcli does not have"
            fix = f"it has {', '.join(sorted(known))}"
            raise ConfigError(*(_missing_plugins(spec, where) or [Problem(where, what, fix)]))


def _missing_plugins(spec: RunSpec, where: str) -> list[Problem]:
    """The plugins of a run that this command line does not name: what a file says of them grants nothing."""
    here = plugin_loading.recorded()
    fixes = {
        name: f"install {what.partition(' ')[2]} again"
        if what.startswith("package ")
        else f"{plugin_loading.FLAG} DIR, where DIR is its folder {name}"
        for name, what in spec.plugins.items()
    }
    return [
        Problem(where, f"was composed with the plugin {name}, which is not here", fix)
        for name, fix in fixes.items()
        if name not in here
    ]


def values_of(spec: RunSpec, where: str) -> tuple[dict[str, Any], dict[KeyPath, Origin]]:
    """The resolved values that a worker acts on, as a tree, and the file as their origin."""
    whole = asdict(spec)
    values = {name: whole[name] for name in (*GROUPS, "run", "seed")}
    return values, {(name,): Origin(where, "run") for name in values}


def _value_problems(spec: RunSpec, where: str, grants: frozenset[str], acts: Sequence[str]) -> Iterator[Problem]:
    values, origins = values_of(spec, where)
    method, peft = get_method(spec.choices["method"]), peft_method({**spec.peft, "name": spec.choices["peft"]})
    # Flags of groups that the command does not act on: what they would allow, it does not do.
    for group in (*GROUPS, "run"):
        request = Request(grants=grants if group in acts else FLAGS)
        composed = Composed(tree=values, choices=dict(spec.choices), origins=origins, request=request)
        if group == GROUPS[0]:
            yield from field_checks.check_top_level(composed, method).values()
        yield from field_checks.check_group(composed, group, method, peft).values()


def _launch_problems(launch: LaunchPlan, where: str) -> Iterator[Problem]:
    """What is wrong with how the worker would be started."""
    for name, limit in _LAUNCH.items():
        value, high = getattr(launch, name), int(limit.high or 0)
        if value is None and name == "num_threads":
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            yield Problem(where, f"launch.{name} is {value!r}, which is not a whole number", "start a new run")
        elif not int(limit.low or 0) <= value <= high:
            yield Problem(where, f"launch.{name}={value} is out of range", f"from {limit.low} to {high}")
    if launch.device not in ("cpu", "cuda"):
        yield Problem(where, f"launch.device={launch.device!r} is not a device", "cpu or cuda")
    if launch.gpu is not None and not isinstance(launch.gpu, str):
        yield Problem(where, f"launch.gpu={launch.gpu!r} is not a card", "name one, or null")


def _started_problems(spec: RunSpec, where: str, acts: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with how a run would be started: its name and settings become lines of a job, and its processes are
    no more than its settings say."""
    if "hardware" not in acts:
        return
    wanted, each = spec.hardware, spec.launch.processes_per_node
    allowed = (wanted.num_processes,) if wanted.num_processes else (1, PROCESSES_ON_CPU)
    if spec.launch.device == "cpu" and each not in allowed:
        what = f"launch.num_processes={spec.launch.num_processes} is not what its hardware settings say"
        yield Problem(where, what, "start a new run")
    if strange := [name for name in spec.attention_candidates if name not in ATTENTION]:
        yield Problem(where, f"attention_candidates names {strange[0]}, which is code of the hub", "start a new run")
    yield from name_problems(str(spec.run.name), where)
    values, origins = values_of(spec, where)
    composed = Composed(tree=values, choices=dict(spec.choices), origins=origins, request=Request())
    yield from hardware_rules.problems(ResolvedRun.of(spec), composed, lambda _: where)


def _inside_problems(spec: RunSpec, where: str, acts: Sequence[str]) -> Iterator[Problem]:
    """What is wrong inside the mappings that the libraries are passed, of the groups that the command acts on."""
    groups = {group: getattr(spec, group) if group in acts else {} for group in ("train", "method")}
    if any(groups.values()):
        yield from mappings.problems(ResolvedRun.of(replace(spec, **groups)), lambda _: where)


def _unsettled_problems(spec: RunSpec, where: str, acts: Sequence[str]) -> Iterator[Problem]:
    """Values that are open still: in the spec of a run each stands as it was settled before the run began."""
    quantised = spec.quantisation.type not in ("none", "int8")
    open_values = {
        f"train.{SIZE}": spec.train.get(SIZE),
        "model.dtype": spec.model.dtype,
        "quantisation.compute_dtype": spec.quantisation.compute_dtype if quantised else None,
    }
    for name, value in open_values.items():
        if value == AUTO and name.partition(".")[0] in acts:
            yield Problem(where, f"{name} is {AUTO}, which stands for no value in the spec of a run", "start a new run")


def _unfit_problems(spec: RunSpec, where: str, acts: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with a mix of data sets, and with an adapter on the model that it is for."""
    values, origins = values_of(spec, where)
    composed = Composed(tree=values, choices=dict(spec.choices), origins=origins, request=Request())
    if "data" in acts:
        yield from data.mix_problems(spec.data.mix or {}, composed)
    if "peft" in acts:
        yield from adapter.settings_problems(ResolvedRun.of(spec), lambda _: where)
    if "run" in acts:
        yield from tracker_problems.problems(spec.run.trackers, spec.run.tracking, None, lambda _: where)
