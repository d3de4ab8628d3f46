"""The environment in which a worker finds its devices, and nothing of the user's own launcher settings."""

from __future__ import annotations

from collections.abc import Mapping

from ftcli.core import hardware

LAUNCHER_VARIABLES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""Prefixes of the variables by which accelerate's launcher talks to its workers: they would change a run unseen."""


def foreign_variables(environment: Mapping[str, str]) -> list[str]:
    """The variables of a launcher's configuration in the user's environment, which no worker is given."""
    return sorted(name for name in environment if name.startswith(LAUNCHER_VARIABLES))


def one_device(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Variables that show a process a single GPU, and a note of the choice; "" where there is none to make.

    In one process that sees several, transformers would copy the model to each (nn.DataParallel), which most of TRL's
    trainers refuse and which doubles the batch of the others. Where NVML tells nothing, the first device is shown.
    """
    visible = environment.get(hardware.VISIBLE)
    if visible is not None and not visible.strip():
        return {}, ""
    cards = hardware.gpus()
    if not cards:
        return {hardware.VISIBLE: visible.split(",")[0].strip() if visible else "0"}, ""
    chosen = hardware.roomiest(cards)
    number = cards.index(chosen)
    shown = {hardware.VISIBLE: chosen.uuid} if chosen.uuid else {hardware.VISIBLE: str(number)}
    if len(cards) == 1:
        return shown, ""
    why = "the first" if number == 0 else "the one with most free memory"
    room = f"{chosen.free_gib:.1f} of {chosen.memory_gib:.1f} GiB free"
    return shown, f"GPU {number} of {len(cards)} is used, {why} ({room}); hardware=multi_gpu uses all of them"
