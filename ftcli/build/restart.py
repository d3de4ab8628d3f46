"""A run whose batch ftcli chose restarts with half the rows in each pass when its memory runs out all the same.

It restarts in a new process from the newest whole checkpoint, or from the weights that it began with: never from the
weights that are in memory, which a search within one process would train a second time from step 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftcli.build import auto_batch, fitting
from ftcli.core.exit_codes import EXIT_CHECKPOINT, EXIT_CONFIG, EXIT_DATA, EXIT_DONE, EXIT_MEMORY
from ftcli.launch.local import newest_checkpoint, run_worker
from ftcli.launch.nodes import ALONE, Node, without_node
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec


def train(
    spec: RunSpec, directory: Path, checkpoint: Path | None, say: Callable[[str], None], node: Node = ALONE
) -> tuple[int, RunSpec]:
    """Run the worker of a run until it ends other than for a pass that was too large.

    Args:
        checkpoint: where to resume; None starts from the initial weights.
        say: takes notes of each restart.
        node: this machine; with several, none of which could choose for the others, nothing restarts.

    Returns:
        The exit code (core/exit_codes.py), and the spec that it ended with, which is also the one in the directory.

    Raises:
        CheckpointError: every checkpoint is damaged.
    """
    step_timeout = spec.hardware.step_timeout_seconds
    code = run_worker(directory, spec.launch, checkpoint, say, node=node, step_timeout=step_timeout)
    while node.num_nodes == 1 and code == EXIT_MEMORY and (smaller := _halved(spec, directory, say)) is not None:
        spec, checkpoint = smaller
        code = run_worker(directory, spec.launch, checkpoint, say, node=node, step_timeout=step_timeout)
    if code == EXIT_DONE and not node.rank:
        fitting.keep_expected(spec, directory)
    return code, spec


def replace_spec(directory: Path, spec: RunSpec) -> Callable[[int], None]:
    """Write the spec of a run that is about to be resumed.

    Returns:
        What takes the worker's exit code, and puts the earlier spec back where the resume was refused before any step.
    """
    file, metrics = directory / rundir.SPEC, directory / rundir.METRICS
    earlier, began = file.read_text(encoding="utf-8"), _stamp(metrics)
    rundir.write_atomically(file, without_node(spec).to_json())

    def settle(code: int) -> None:
        refused = code in (EXIT_CONFIG, EXIT_DATA, EXIT_CHECKPOINT)
        if refused and _stamp(metrics) == began:  # which a worker writes anew as it begins
            rundir.write_atomically(file, earlier)

    return settle


def _stamp(file: Path) -> tuple[int, int] | None:
    """What tells a file that was written anew from the one before it; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _halved(spec: RunSpec, directory: Path, say: Callable[[str], None]) -> tuple[RunSpec, Path | None] | None:
    """The spec with half the rows in each pass, written to the run, and where it restarts; None if that cannot be."""
    run = ResolvedRun.of(spec)
    if not run.chooses_batch:
        return None
    checkpoint = newest_checkpoint(directory, files_to_resume(spec), say)
    start = checkpoint.name if checkpoint else "the start"
    smaller = auto_batch.halved(run, f"with {run.batch.per_device} rows in a pass, restarted from {start}")
    if smaller is None:
        return None
    batch = smaller.batch
    say(f"out of memory: restarting from {start} with {batch.per_device} rows in each of {batch.accumulation} passes")
    rundir.write_atomically(directory / rundir.SPEC, smaller.spec.to_json())
    return smaller.spec, checkpoint
