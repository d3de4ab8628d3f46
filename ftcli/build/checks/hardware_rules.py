"""What a run's hardware asks for: machines, where they meet, what has no effect on one, and how a model is sharded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ftcli.config.compose import WRITERS, Composed
from ftcli.core.errors import Problem
from ftcli.core.suggest import suggest
from ftcli.launch import profile
from ftcli.models.sources import model_source
from ftcli.models.stored_quantisation import stored_quantisation
from ftcli.peft_methods import starts_plain
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings import shared_loading
from ftcli.settings.sharding import mapping_of

Where = Callable[[str], str]
LIBRARIES = ("fsdp", "deepspeed")
"""The settings of `train` by which a library shards a model."""
_OF_SEVERAL = ("node_type", "num_nodes", "node_rank", "rendezvous")
"""Settings of `hardware` that only a profile reads that spans machines."""
_OF_JOBS = ("account", "partition", "time_limit", "container", "sbatch", "stop_seconds", "max_requeues")
"""Settings that only a profile reads that submits a job."""


def problems(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """The problems of a run's hardware."""
    yield from _device(run, where)
    yield from _profile(run, composed, where)
    yield from _alone(run, where)
    yield from _read_once(run, where)
    wanted, launch = run.spec.hardware, run.spec.launch
    if wanted.max_restarts and launch.num_processes == 1 and launch.device == "cpu":
        what = "hardware.max_restarts starts lost processes of several again, and this run has one"
        yield Problem(where("hardware.max_restarts"), what, "remove it; ftcli train --resume RUN starts a run again")
    if profile.profile_of(wanted).submits:
        yield from _job(run, composed, where)
    else:
        yield from _unread(run, composed, where, _OF_JOBS, "for a Slurm job", "hardware=slurm")
    if profile.profile_of(wanted).spans:
        yield from _several(run, composed, where)
        return
    yield from _unread(run, composed, where, _OF_SEVERAL, "with several machines", "hardware=multi_node")


def _unread(
    run: ResolvedRun, composed: Composed, where: Where, keys: Sequence[str], when: str, choice: str
) -> Iterator[Problem]:
    """Settings that the user wrote and that this profile does not read."""
    for key in keys:
        if composed.tree["hardware"].get(key) is not None and composed.layer("hardware", key) >= WRITERS.index(
            "recipe"
        ):
            what = f"hardware.{key} is read only {when}, and hardware.type={run.spec.hardware.type} is none"
            yield Problem(where(f"hardware.{key}"), what, f"set {choice}, or remove it")


def _job(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    """What a Slurm job is asked with: words that stand on one line, options that run nothing."""
    from ftcli.launch import slurm

    wanted = run.spec.hardware
    if wanted.num_processes is None:
        what = "hardware=slurm plans for machines that are not here, and nothing says how many GPUs each has"
        yield Problem(where("hardware.num_processes"), what, "set hardware.num_processes")
    if wanted.time_limit is not None and not slurm.WAIT.fullmatch(str(wanted.time_limit)):
        what = f"hardware.time_limit={wanted.time_limit} is not a time as Slurm writes it"
        yield Problem(where("hardware.time_limit"), what, "write minutes, 12:00:00, or 2-00")
    for key in ("node_rank", "rendezvous"):
        if getattr(wanted, key) is not None:
            yield Problem(where(f"hardware.{key}"), f"hardware.{key} is Slurm's to say in a job", "remove it")
    for name in wanted.sbatch or {}:
        if name not in slurm.OPTIONS:
            what = f"hardware.sbatch.{name} is not an option that a job takes from here"
            yield Problem(where("hardware.sbatch"), what, suggest(str(name), slurm.OPTIONS, ""))
    values = {"account": wanted.account, "partition": wanted.partition}
    for name, value in {**values, **(wanted.sbatch or {})}.items():
        if value is not None and not isinstance(value, bool) and not slurm.VALUE.fullmatch(str(value)):
            key = name if name in values else f"sbatch.{name}"
            what = f"hardware.{key}={value!r} does not stand on a line of options"
            yield Problem(where(f"hardware.{key.partition('.')[0]}"), what, "give one word without quotes")


def _several(run: ResolvedRun, composed: Composed, where: Where) -> Iterator[Problem]:
    wanted, nodes = run.spec.hardware, run.spec.launch.num_nodes
    each = profile.for_each_node()
    if wanted.node_type not in each:
        what = f"hardware.node_type={wanted.node_type} does not start a process on each GPU of a machine"
        yield Problem(where("hardware.node_type"), what, f"choose from {', '.join(each)}")
    if nodes < 2 and wanted.type == "multi_node":
        what = "hardware=multi_node is for several machines, and nothing says how many"
        yield Problem(where("hardware.num_nodes"), what, "set hardware.num_nodes, or start it under Slurm or torchrun")
    if wanted.node_rank is not None and not 0 <= wanted.node_rank < max(nodes, 1):
        what = f"hardware.node_rank={wanted.node_rank} is not one of {nodes} machines"
        yield Problem(where("hardware.node_rank"), what, f"the first is 0, the last {nodes - 1}")
    if wanted.rendezvous is not None and not re.fullmatch(r"[^\s:]+:\d+", wanted.rendezvous):
        what = f"hardware.rendezvous={wanted.rendezvous} is not HOST:PORT"
        yield Problem(where("hardware.rendezvous"), what, "name a port of the first machine: node0:29400")
    if nodes > 1 and composed.request.stage is not None:
        what = "the stages of a pipeline, which sample between the trainings, run on one machine"
        yield Problem(where("hardware.num_nodes"), what, "leave it out, or train each stage as a run of its own")
    elif nodes > 1 and composed.tree["run"].get("dir") is None and wanted.type == "multi_node":
        what = "the machines of a run write into one directory, and by default each would choose its own"
        yield Problem("run.dir", what, "set run.dir to a folder that all of them share")


def brings(run: ResolvedRun) -> bool:
    """Whether the sharding comes with the hardware profile, and not from settings of `train`."""
    return bool(profile.node_profile(run.spec.hardware).train)


def _device(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    wanted = run.spec.hardware
    if wanted.device == "cpu" != run.spec.launch.device:
        what = f"hardware.type={wanted.type} computes on a GPU, whatever hardware.device says"
        yield Problem(where("hardware.device"), what, "remove it, or set hardware=cpu")
    if run.spec.launch.device == "cpu" and mapping_of(run.spec.train.get("fsdp_config")).get("cpu_offload"):
        what = "FSDP offloads to memory that a GPU has pinned, and this run computes on a CPU"
        offloads = where("hardware.device" if brings(run) else "train.fsdp_config")
        yield Problem(offloads, what, "use hardware=fsdp, which holds the same on a CPU")


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


def _read_once(run: ResolvedRun, where: Where) -> Iterator[Problem]:
    """One process cannot read the model for all of a run that computes from its weights before they are sharded."""
    spec = run.spec
    if not spec.train.get("fsdp") or spec.launch.num_processes == 1 or not shared_loading.wanted(spec):
        return
    source = model_source(spec.model.name_or_path)
    reason = shared_loading.why_each_reads(
        spec,
        is_adapter=source is not None and source.is_adapter,
        stored_quantised=stored_quantisation(spec.model) is not None,
        plain_start=starts_plain(run.peft, spec.peft),
    )
    if reason:
        what = f"train.fsdp_config.{shared_loading.ENTRY}=true is not for this run: {reason}"
        yield Problem(where("train.fsdp_config"), what, "remove it: it is used wherever it can be")
