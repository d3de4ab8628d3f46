"""What training needs and planning does not: the requested GPUs and the files of the models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ftcli.cli import output
from ftcli.core import hardware, torch_build
from ftcli.core.errors import ConfigError, DiskError, OutOfMemory, Problem
from ftcli.core.paths import UNNAMED
from ftcli.launch.profile import cards
from ftcli.methods import get_method
from ftcli.methods.method import further_models
from ftcli.models import sources
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.run_spec import RunSpec

_TIGHT_DISK = 0.9
"""Share of the free space above which the estimate leaves no room for its own error."""


def require_room(runs: Sequence[ResolvedRun]) -> None:
    """Compare the plan of each run with its card: warn above nine tenths of the card's memory, refuse above all of it.

    Raises:
        OutOfMemory: a run does not fit, with the smallest change that makes it fit.
    """
    from ftcli.build import fitting
    from ftcli.cli.render.configuration import chosen_of
    from ftcli.cli.render.plan import to_fit
    from ftcli.plan.outlook import plan

    for run in runs:
        found = fitting.fit(run, plan(run)) if cards(run.spec.launch) else None
        if found is None or (found.verdict == "fits" and found.free_gib >= found.needs_gib):
            continue
        advice = to_fit(run, found)
        if found.verdict == "does not fit":
            raise OutOfMemory(Problem(f"model={chosen_of(run.spec, 'model')}", str(found), f"{advice}; or --anyway"))
        output.warn(f"{found}; {advice}" if advice else str(found))


def require_disk(runs: Sequence[ResolvedRun], begun: Path | None = None) -> None:
    """Compare what runs will write with the free space: warn above nine tenths of it, refuse above all of it.

    Args:
        begun: the directory of what is resumed, where a part is written already.

    Raises:
        DiskError: it does not fit.
    """
    from ftcli.build.disk_room import bytes_below, room
    from ftcli.plan.disk import disk_at_most
    from ftcli.plan.outlook import plan, trainable_parameters

    place = begun or Path(str(runs[0].spec.run.dir))
    written = bytes_below(begun) if begun else 0
    most = [disk_at_most(run, trainable_parameters(run)) for run in runs]
    if all(most):  # where there is room in any case, no row is counted
        there = room(place, [each for each in most if each is not None], written)
        if there.needs_gib <= _TIGHT_DISK * there.free_gib:
            return
    estimates = [each for each in (plan(run).disk for run in runs) if each is not None]
    if not estimates:
        return
    there = room(place, estimates, written)
    what = f"{'what is left to write' if begun else 'the run'} needs {there}"
    if there.needs_gib > there.free_gib:
        fix = "free some space, set run.dir to another disk, or keep fewer with train.save_total_limit; or --anyway"
        raise DiskError(Problem(str(place), what, fix))
    if there.needs_gib > _TIGHT_DISK * there.free_gib:
        output.warn(what)


def _require_card(spec: RunSpec) -> None:
    """Check that the card that a run was planned for is the one that is here, and that torch can use it.

    Raises:
        ConfigError: it is not.
    """
    planned, here = cards(spec.launch), hardware.planned(None, spec.launch.processes_per_node)
    least = min(each.memory_gib for each in here)
    if spec.launch.gpu and (least < 0.95 * planned[0].memory_gib or here[0].capability < planned[0].capability):
        what = f"the run is planned for {spec.launch.gpu}, and this machine has {here[0].name} ({least:.1f} GiB)"
        raise ConfigError(Problem("hardware.gpu", what, "leave it out to train here"))
    if (why := torch_build.why_no_gpu()) is not None:
        raise ConfigError(Problem(f"hardware={spec.choices['hardware']}", *why))


def require_here(spec: RunSpec) -> None:
    """Check that the requested GPUs and the model's files are available.

    Raises:
        ConfigError: they are not.
    """
    if spec.launch.device == "cuda" and not hardware.gpus():
        fix = "use hardware=cpu or hardware=auto; ftcli doctor shows the hardware"
        raise ConfigError(
            Problem(f"hardware={spec.choices['hardware']}", "this machine has no GPU that NVML can see", fix)
        )
    if spec.launch.device == "cuda" and spec.launch.processes_per_node > len(hardware.gpus()):
        what = f"{spec.launch.processes_per_node} processes for {len(hardware.gpus())} GPUs"
        raise ConfigError(Problem("hardware.num_processes", what, f"use at most {len(hardware.gpus())}"))
    if spec.launch.device == "cuda":
        _require_card(spec)
    if spec.launch.num_processes == 1 and (spec.train.get("fsdp") or spec.train.get("deepspeed")):
        what = "shards a model over several GPUs, and this machine has one"
        raise ConfigError(Problem(f"hardware={spec.choices['hardware']}", what, "use hardware=gpu"))
    require_model(spec)


def require_named(unnamed: Mapping[str, str]) -> None:
    """Check that nothing that a job reads is still to be named.

    Args:
        unnamed: the settings that are, each with the word for what it takes.

    Raises:
        ConfigError: something is.
    """
    if unnamed:
        what = f"{UNNAMED} stands for what is still to be named"
        raise ConfigError(*(Problem(key, what, f"add {key}={wanted}") for key, wanted in unnamed.items()))


def require_rows(spec: RunSpec, fed: Collection[str] = ()) -> None:
    """Find the files of a run's rows, and download those of hub sets, before a run folder is made.

    Args:
        fed: settings that another stage of a pipeline will give.

    Raises:
        ConfigError: a set is not here, and cannot be downloaded.
    """
    from ftcli.data.row_sets import every_set, fetched

    for each in every_set(spec.data, get_method(str(spec.method["name"]))):
        if each.key not in fed:
            fetched(each)


def require_model(spec: RunSpec) -> None:
    """Check that the files of a run's models are here or can be downloaded from the hub.

    Raises:
        ConfigError: they cannot, with a fix.
    """
    require_folders(spec)
    require_hub(spec.model.name_or_path, spec.model.revision, "model.name_or_path")
    for key, name, _ in further_models(spec.method):
        require_hub(name, None, f"method.{key}")
    if judge := spec.method.get("judge"):
        from ftcli.settings.backends import BackendSettings
        from ftcli.synthesis.backend import require_backend

        require_backend(BackendSettings(**judge), "method.judge")


def require_folders(spec: RunSpec) -> None:
    """Check that the local models of a run still exist; uses no network.

    Raises:
        ConfigError: one does not.
    """
    _foundation(spec.model.name_or_path, "model.name_or_path")
    for key, name, _ in further_models(spec.method):
        _foundation(name, f"method.{key}")


def require_hub(name: str, revision: str | None, key: str) -> None:
    """Check that the files of one model are here or can be downloaded.

    Raises:
        ConfigError: they cannot, with a fix.
    """
    bottom = _foundation(name, key)
    if bottom.hub_id is not None:
        from ftcli.models.availability import require

        require(bottom.hub_id, revision, f"{key}={bottom.hub_id}")


def _foundation(name: str, key: str) -> sources.ModelSource:
    """The full model that `key` names; for an adapter, its base model.

    Raises:
        ConfigError: its folder does not exist, or it is still to be named.
    """
    sources.require_named(name, key)
    source = sources.model_source(name)
    bottom = sources.foundation(source) if source else None
    if bottom is None:
        below = "" if source is None else ": the base model of its adapter is not here"
        fix = "restore the folder, or name a finished run, a model folder or a hub id"
        raise ConfigError(Problem(f"{key}={name}", f"{name} holds no model{below}", fix))
    return bottom
