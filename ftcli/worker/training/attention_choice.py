"""The attention kernel of a run where several compute the same: the fastest of them, measured once.

The first process measures, all take what it took, and the run directory keeps it: a resumed run computes as it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.attention_kernels import FLASH, runs_here
from ftcli.runs.measured_attention import SETTING, AttentionChoice, record, recorded, with_choice
from ftcli.settings.ownership import ATTENTION
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.models.load import weights_dtype
from ftcli.worker.process.own_lines import say
from ftcli.worker.training.attention_timing import LayerTimer, Passes, longest_rows, model_config

FASTER = 0.97
"""What a kernel must take at most of the planned one's time to be taken instead: repeats differ by less."""
ROOM = 0.02
"""The share of the card that a kernel may need beyond the planned one, with which the run was found to fit."""
_GIB = 2**30


def settled(
    spec: RunSpec, run_dir: Path, training: Any, data: Dataset | Any, *, resumed: bool
) -> tuple[RunSpec, AttentionChoice | None]:
    """The spec with the kernel to train with, and how that was chosen; every process must call this.

    Args:
        training: the trainer's config.
        data: the rows that it trains on.
        resumed: whether the run goes on, and must not choose anew.

    Raises:
        ConfigError: what the run took when it began is not here, or the spec names code of somebody else.
    """
    if not spec.attention_candidates:
        return spec, None
    if strange := [name for name in spec.attention_candidates if name not in ATTENTION]:
        what = f"{strange[0]} is code from the hub, which a file may not request"
        raise ConfigError(Problem("attention_candidates", what, f"name it on the command line with {SETTING}"))
    found: list[Any] = [None]
    if training.process_index == 0:
        found = [_chosen(spec, run_dir, training, data, resumed=resumed)]
    if training.world_size > 1:
        broadcast_object_list(found)
    choice: AttentionChoice = found[0]
    if reason := _why_absent(choice.kernel, training.device):
        what = f"the run began with {choice.kernel} attention, and {reason}"
        fix = "resume it where it began, or start a new run with ftcli train --from"
        raise ConfigError(Problem(SETTING, what, fix))
    return with_choice(spec, choice), choice


def fastest(candidates: Sequence[str], measure: Callable[[str], Passes], room_bytes: float) -> AttentionChoice:
    """The fastest of some kernels.

    Args:
        candidates: the planned one first, which is taken where none is faster.
        measure: times one.
        room_bytes: memory that a kernel may need beyond the planned one.
    """
    planned, passes, left_out = candidates[0], dict[str, Passes](), dict[str, str]()
    for name in candidates:
        try:
            passes[name] = measure(name)
        except Exception as error:  # whatever a kernel raises here it would raise in training
            left_out[name] = _reason(error)
    left_out |= _too_large(passes, planned, room_bytes)
    timed = {name: each.seconds for name, each in passes.items() if name not in left_out}
    if not timed:
        return AttentionChoice(kernel=planned, why="as planned, since none could be measured", left_out=left_out)
    best = min(timed, key=lambda name: timed[name])
    why = "the fastest" if len(timed) > 1 else "the only one that could be measured"
    if best != planned and planned in timed and timed[best] > FASTER * timed[planned]:
        best, why = planned, f"as planned, since none is faster by {1 - FASTER:.0%}"
    milliseconds = {
        name: round(1000 * each.seconds, 4) for name, each in sorted(passes.items(), key=lambda item: item[1].seconds)
    }
    return AttentionChoice(kernel=best, why=why, milliseconds=milliseconds, left_out=left_out)


def _too_large(passes: Mapping[str, Passes], planned: str, room_bytes: float) -> dict[str, str]:
    """The kernels that need much more memory than the planned one, and how much."""
    own = passes[planned].extra_bytes if planned in passes else None
    if own is None:
        return {}
    more = {name: each.extra_bytes - own for name, each in passes.items() if each.extra_bytes is not None}
    return {
        name: f"it needs {size / _GIB:.1f} GiB more than {planned}, with which the run was planned"
        for name, size in more.items()
        if size > room_bytes
    }


def _chosen(spec: RunSpec, run_dir: Path, training: Any, data: Any, *, resumed: bool) -> AttentionChoice:
    """What the run took when it began; else what it takes now, which is then written down."""
    planned = spec.attention_candidates[0]
    if (before := recorded(run_dir)) is not None:
        say(f"attention: {before.kernel}, which the run took when it began")
        return before
    if resumed:
        return AttentionChoice(kernel=planned, why="as planned, since the run kept no measurement")
    choice = _measured(spec, training, data)
    record(run_dir, choice)
    say(f"attention: {choice.kernel}, {choice.text}")
    return choice


def _measured(spec: RunSpec, training: Any, data: Any) -> AttentionChoice:
    device = training.device
    try:
        rows = longest_rows(data, training.per_device_train_batch_size)
        timer = LayerTimer(model_config(spec.model), rows, training, weights_dtype(spec.compute_dtype, device.type))
    except Exception as error:  # a configuration that is unlike all others; what is wrong with it shows in loading
        why = f"as planned, since no copy of the model could be measured ({_reason(error)})"
        return AttentionChoice(kernel=spec.attention_candidates[0], why=why)

    def measure(name: str) -> Passes:
        if reason := _why_absent(name, device):
            raise LookupError(reason)
        return timer(name)

    room = ROOM * torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0.0
    return fastest(spec.attention_candidates, measure, room)


def _why_absent(kernel: str, device: torch.device) -> str | None:
    """Why a kernel does not run here; it would be fetched from the hub, which nobody granted."""
    if runs_here(kernel, cuda=device.type == "cuda"):
        return None
    return f"the package {FLASH[kernel].distribution} is not installed, or there is no GPU"


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
