"""A model that is sharded over several processes: what the hardware profile brings, and what cannot be sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ftcli.config.compose import Composed
from ftcli.core.errors import Problem
from ftcli.launch import profile
from ftcli.plan.resolved_run import ResolvedRun

Where = Callable[[str], str]
LIBRARIES = ("fsdp", "deepspeed")
"""The settings of `train` by which a library shards a model."""


def problems(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The problems of a run's sharding."""
    yield from _device(run, where)
    yield from _profile(run, composed, where)
    yield from _alone(run, where)


def brings(run: ResolvedRun) -> bool:
    """Whether the sharding comes with the hardware profile, and not from settings of `train`."""
    return bool(profile.node_profile(run.spec.hardware).train)


def _device(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    wanted = run.spec.hardware
    if wanted.device == "cpu" != run.spec.launch.device:
        what = f"hardware.type={wanted.type} computes on a GPU, whatever hardware.device says"
        yield Problem(where("hardware.device"), what, "remove it, or set hardware=cpu")


def _profile(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """What the user set of the sharding, where the profile says something else."""
    profiled = profile.node_profile(run.spec.hardware)
    if not profiled.train:
        return
    typed = composed.tree.get("train", {})
    for name in LIBRARIES:
        if name not in profiled.train and typed.get(name) not in (None, False, ""):
            what = f"hardware.type={profiled.name} shards the model, and train.{name} would shard it another way"
            yield Problem(where(f"train.{name}"), what, "remove it, or set hardware=multi_gpu")
    for name, brought in profiled.train.items():
        for path, mine, theirs in _differences(typed.get(name), brought):
            key = ".".join(("train", name, *path))
            what = f"{key}={mine} is not what hardware.type={profiled.name} means, which has {theirs}"
            yield Problem(where(f"train.{name}"), what, "remove it, or set it with hardware=multi_gpu")


def _differences(typed: Any, brought: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Each entry that a user's value has otherwise than the profile's: its path inside, and both values."""
    if typed is None or typed == brought or brought == "auto":
        return
    if isinstance(typed, Mapping) and isinstance(brought, Mapping):
        for key in typed.keys() & brought.keys():
            yield from (((key, *path), mine, theirs) for path, mine, theirs in _differences(typed[key], brought[key]))
    else:
        yield (), typed, brought


def _alone(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """One process has nobody to shard with; on a GPU the machine that it will run on may have more."""
    spec = run.spec
    written = bool(spec.hardware.num_processes) or spec.launch.device == "cpu" or not profile.has_several(spec.hardware)
    if spec.launch.num_processes > 1 or not written:
        return
    for name in LIBRARIES:
        if spec.train.get(name):
            what = f"train.{name} shards a model over several processes, and this run has one"
            fix = "set hardware.num_processes=2 or more" if brings(run) else "remove it, or set hardware=multi_gpu"
            yield Problem(where("hardware.num_processes" if brings(run) else f"train.{name}"), what, fix)
