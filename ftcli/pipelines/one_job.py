"""A pipeline as one job of a scheduler, in which its stages run one after the other.

Each stage may have its own number of processes; what the scheduler is asked for is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ftcli.core.errors import Problem
from ftcli.launch.profile import profile_of
from ftcli.pipelines.stages import PipelineSpec
from ftcli.settings.run_spec import RunSpec

_ASKED_ONCE = (
    "type", "account", "partition", "time_limit", "container", "sbatch", "stop_seconds", "max_requeues",
)  # fmt: skip


def job_problems(runs: Mapping[str, RunSpec]) -> Iterator[Problem]:
    """Stages that would ask the scheduler for something else than the first.

    Args:
        runs: the training stages by name, in their order.
    """
    if not any(profile_of(spec.hardware).submits for spec in runs.values()):
        return
    (first, settled), *others = runs.items()
    for name, spec in others:
        for key in _ASKED_ONCE:
            mine, theirs = getattr(spec.hardware, key), getattr(settled.hardware, key)
            if mine != theirs:
                what = f"is {mine}, and {theirs} for stage {first}: the stages of a pipeline are one Slurm job"
                yield Problem(f"stages.{name}.hardware.{key}", what, f"set hardware.{key} for all stages")
                break


def job_spec(spec: PipelineSpec) -> RunSpec | None:
    """What a scheduler is asked for: that of the stage with the most GPUs, else processes, under the pipeline's name.

    None where the pipeline runs where it is started.
    """
    asked = [run.spec for run in spec.runs().values() if profile_of(run.spec.hardware).submits]
    if not asked:
        return None
    most = max(asked, key=lambda each: (each.launch.device == "cuda", each.launch.processes_per_node))
    return replace(most, run=replace(most.run, name=spec.name, dir=str(spec.dir)))
