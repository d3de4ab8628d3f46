"""What a checkpoint must hold, as its run's kind says, whatever its own manifest lists.

The libraries go on without a file that is not there: transformers with a fresh optimizer, scheduler, generator and loss
scale, and ftcli with a model's own loader where an adapter's exact tensors are missing. A checkpoint that lacks one is
therefore no checkpoint of this run, also where its manifest agrees with itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftcli.settings.run_spec import RunSpec
from ftcli.settings.sharding import ZERO, sharding

TRAINER_STATE = "trainer_state.json"
ADAPTER_STATE = "adapter_exact.pt"
"""The adapter's tensors as they are in memory, the reference adapter's among them."""
REFERENCE_STATE = "reference.pt"
"""A reference model that follows the policy."""
CRITIC_STATE = "critic.safetensors"
CRITIC_OPTIMIZER = "critic_optimizer_{}.pt"
"""Of a critic beside a sharded policy, by process."""
PROCESS_STATE = "process_state_{}.pt"
"""What each process restores beside its generators: its place in the rows, the tuner's and the trainer's state."""
FSDP, DEEPSPEED = "fsdp", "deepspeed"


@dataclass(frozen=True, kw_only=True)
class CheckpointKind:
    """What of a run decides which files its checkpoints have; the defaults are full fine-tuning in one process."""

    processes: int = 1
    adapter: bool = False
    """Whether an adapter trains, and its base is not saved."""
    library: str | None = None
    """What saves model and optimizer: fsdp, deepspeed, or None for torch."""
    zero: bool = False
    """Whether DeepSpeed divides the optimizer's state over the processes."""
    scaled: bool = False
    """Whether gradients are scaled, as in float16, by a scaler with a state of its own."""
    critic: bool = False
    """Whether a critic trains beside the policy."""
    synced_reference: bool = False
    """Whether the reference follows the policy, and so has to be saved."""


def kind_of(spec: RunSpec, *, adapter: bool, critic: bool) -> CheckpointKind:
    """The kind of a run.

    Args:
        adapter, critic: as its adapter and its method declare.
    """
    return CheckpointKind(
        processes=spec.launch.num_processes,
        adapter=adapter,
        library=FSDP if spec.train.get("fsdp") else DEEPSPEED if spec.train.get("deepspeed") else None,
        zero=(sharding(spec.train) or "").startswith(ZERO),
        scaled=bool(spec.train.get("fp16")) and spec.launch.device != "cpu",
        critic=critic,
        synced_reference=bool(spec.method.get("sync_ref_model")),
    )


def needed_files(kind: CheckpointKind) -> tuple[str, ...]:
    """The files that a resume of a run of this kind needs, as patterns; of alternatives ("a|b") one is enough."""
    ranks = range(kind.processes)
    rng = ("rng_state.pth",) if kind.processes <= 1 else tuple(f"rng_state_{rank}.pth" for rank in ranks)
    return (
        *_weights_and_optimizer(kind),
        *rng,
        *(PROCESS_STATE.format(rank) for rank in ranks),
        *(("scaler.pt",) if kind.scaled and kind.library != DEEPSPEED else ()),
        *((CRITIC_STATE,) if kind.critic else ()),
        *(CRITIC_OPTIMIZER.format(rank) for rank in ranks if kind.critic and kind.library),
        *((REFERENCE_STATE,) if kind.synced_reference else ()),
        TRAINER_STATE,
    )


def _weights_and_optimizer(kind: CheckpointKind) -> tuple[str, ...]:
    """What trains, its optimizer's state and its schedule."""
    if kind.library == DEEPSPEED:
        states = tuple(f"global_step*/*zero_pp_rank_{rank}_mp_rank_*_optim_states.pt" for rank in range(kind.processes))
        # Where DeepSpeed has the schedule, it lies in its model states.
        return ("latest", "global_step*/*model_states.pt", *(states if kind.zero else ()))
    if kind.library == FSDP:
        return ("pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt")
    model = (ADAPTER_STATE, "adapter_config.json", "adapter_model.safetensors")
    whole = ("config.json", "model.safetensors|model.safetensors.index.json")
    return (*(model if kind.adapter else whole), "optimizer.pt", "scheduler.pt")
