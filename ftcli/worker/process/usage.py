"""What a run takes of its machine: speed without its first steps, peak memory, the share of the card's peak rate."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from ftcli.core import hardware
from ftcli.core.gpu_cards import rate_of
from ftcli.models.known_shapes import model_shape
from ftcli.models.parameters import operations_per_token
from ftcli.peft_methods import peft_method
from ftcli.runs.measured_attention import AttentionChoice
from ftcli.settings.run_spec import RunSpec

FIRST_STEPS = 10
"""Steps in which kernels are chosen and compiled and caches fill, so that they say little of a run's speed."""
_GIB = 2**30
_RESIDENT_UNIT = 1024
"""Linux tells the peak of resident memory in KiB."""


class Pace(TrainerCallback):
    """Measures training alone: steps with the wait for their rows, without evaluations, logs and checkpoints.

    A run of fewer than twice FIRST_STEPS leaves out its first half.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._tokens = 0
        self._steps: list[tuple[float, int]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock."""
        self._since, self._tokens = time.monotonic(), state.num_input_tokens_seen

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts one step."""
        now = time.monotonic()
        self._steps.append((now - self._since, state.num_input_tokens_seen - self._tokens))
        self._since, self._tokens = now, state.num_input_tokens_seen

    def _resume_clock(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves out what came between two steps."""
        self._since = time.monotonic()

    on_log = on_evaluate = on_save = _resume_clock

    def tokens_per_second(self) -> float | None:
        """Tokens of all processes a second; None where one step or none was seen, or its tokens are not counted."""
        counted = self._steps[min(FIRST_STEPS, (len(self._steps) + 1) // 2) :]
        seconds, tokens = sum(step[0] for step in counted), sum(step[1] for step in counted)
        return tokens / seconds if tokens and seconds else None


def peak_memory() -> dict[str, float]:
    """The most memory that this process had so far, in GiB: the host's, and where a GPU is used also what its tensors
    took, and what torch held for them."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RESIDENT_UNIT
    peaks = {"peak_resident_gib": round(resident / _GIB, 3)}
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return peaks
    return peaks | {
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / _GIB, 3),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / _GIB, 3),
    }


def usage(
    spec: RunSpec, model: Any, pace: Pace, device: torch.device, attention: AttentionChoice | None = None
) -> dict[str, Any]:
    """What a run took, for result.json; every process of it must call this.

    Memory is that of the process that took most. `mfu` is the share of the cards' peak rate that the training passes
    reached: 6 operations a token and visited parameter, 4 where the base is frozen, with none counted twice.

    Args:
        attention: how its kernel was chosen, where it was measured.
    """
    peaks = peak_memory()
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    speed = pace.tokens_per_second()
    return {
        "device": name,
        "driver": hardware.driver_version() if on_gpu else None,
        "attention": getattr(model.config, "_attn_implementation", None),
        **({"attention_measured": asdict(attention)} if attention else {}),
        "tokens_per_second": speed and round(speed, 1),
        "mfu": share_of_peak(spec, speed, rate_of(name)) if on_gpu else None,
        "peak_allocated_gib": None,
        "peak_reserved_gib": None,
        **_most(peaks, device),
    }


def share_of_peak(spec: RunSpec, speed: float | None, teraflops: float) -> float | None:
    """The share of its cards' peak rate that a run's training passes reach; None where speed or rate are unknown.

    Args:
        speed: tokens a second, of all processes.
        teraflops: the peak rate of one card; 0 where it is unknown.
    """
    shape, peft = model_shape(spec.model), peft_method(spec.peft)
    each = operations_per_token(shape, base_trains=peft is None or not peft.adapter) if shape else None
    if each is None or speed is None or not teraflops:
        return None
    return round(each * speed / (teraflops * 1e12 * spec.launch.num_processes), 4)


def _most(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """The largest of each value over all processes."""
    if not distributed.is_initialized():
        return values
    found = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return dict(zip(values, found.tolist(), strict=True))
