"""What a PPO checkpoint holds besides policy, optimizer and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ftcli.runs.checkpoint_kind import CRITIC_STATE
from ftcli.worker.distributed import sharded
from ftcli.worker.distributed.exact_state import Beside


class Carried(Beside):
    """PPO's part of a checkpoint: the critic, the unfinished rollout, the KL coefficient and the reward statistics."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """As its parent."""
        own = self._trainer
        within = own._position is not None and own._position % own._repeats
        return {
            "rollout": own._rollout if within else [],
            "num_tokens": own._num_tokens if within else [],
            "kl_coef": own.kl_coef,
            "scores": own.shaping.seen,
            "signal": own.signal.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """As its parent."""
        own = self._trainer
        own._rollout, own._num_tokens = state["rollout"], state["num_tokens"]
        own.kl_coef, own.shaping.seen = state["kl_coef"], state["scores"]
        own.signal.load_state(state.get("signal"))
        own._position = own.state.global_step * own.args.gradient_accumulation_steps
        if own.is_world_process_zero():
            own.completions.forget_after(own.state.global_step)

    def save(self, folder: Path) -> None:
        """As its parent."""
        own = self._trainer
        tensors = sharded.whole_state(own.accelerator.unwrap_model(own.models.critic))
        if own.args.should_save:
            save_file(tensors, str(folder / CRITIC_STATE))
        if own._critic_optimizer is not None:
            own._critic_optimizer.save(folder)

    def load(self, folder: Path) -> None:
        """As its parent."""
        own = self._trainer
        sharded.put_whole_state(own.accelerator.unwrap_model(own.models.critic), load_file(str(folder / CRITIC_STATE)))
        if own._critic_optimizer is not None:
            own._critic_optimizer.load(folder)
