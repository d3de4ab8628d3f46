"""Where a saved recipe comes from: what its run measured, on what, in how many seconds and how much memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcli.core.untrusted import foreign_files
from ftcli.runs import rundir

NOT_MEASURED = "not measured: saved from a command, of which no run is known"
_TOLD = ("torch", "transformers", "trl", "peft")


def lines(run: Path) -> list[str]:
    """The provenance of a run, a line each.

    Raises:
        ConfigError: its result is damaged.
    """
    result = rundir.read_result(run)
    if result is None:
        return [f"not measured: the run {run.name} is not finished"]
    with rundir.stored(run / rundir.RESULT):
        return [f"measured: {'; '.join(_measured(result))}", f"on: {'; '.join(_hardware(run, result))}"]


def _measured(result: Mapping[str, Any]) -> Iterator[str]:
    held_out = result.get("eval_loss") or {}
    if held_out.get("after") is not None:
        yield f"held-out loss {_number(held_out.get('before'))} → {_number(held_out['after'])}"
    elif result.get("loss_last") is not None:
        yield f"loss {_number(result.get('loss_first'))} → {_number(result['loss_last'])}"
    score = result.get("score") or {}
    if score.get("after") is not None:
        yield f"{score['name']} {_number(score.get('before'))} → {_number(score['after'])} over {score['rows']} rows"
    yield f"{result['steps']} steps, {result['tokens_trained']} tokens"
    yield f"{result['seconds']:.1f} seconds"
    machine = result.get("machine") or {}
    for name, where in (("peak_reserved_gib", "GPU"), ("peak_resident_gib", "process")):
        if machine.get(name) is not None:
            yield f"peak memory {machine[name]:.2f} GiB ({where})"


def _hardware(run: Path, result: Mapping[str, Any]) -> Iterator[str]:
    """The devices and the versions that decide most."""
    try:
        found = foreign_files.read_json(run / rundir.ENVIRONMENT)
    except (OSError, ValueError):
        yield str((result.get("machine") or {}).get("device"))
        return
    devices = [str(each) for each in found["devices"]]
    yield f"{len(devices)} x {devices[0]}" if len(devices) > 1 else devices[0]
    yield f"{found['num_processes']} process{'es' * (found['num_processes'] != 1)}, {found['num_threads']} threads"
    yield ", ".join(f"{name} {found['packages'][name]}" for name in _TOLD if name in found["packages"])


def _number(value: Any) -> str:
    return "?" if value is None else f"{value:.4g}"
