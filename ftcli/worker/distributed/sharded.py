"""The critic and the reference of a policy that FSDP2 or DeepSpeed has sharded.

accelerate and DeepSpeed shard one network with one optimizer. A critic and a reference are further networks: they are
sharded with torch's own fully_shard, whichever library shards the policy, and the critic has an optimizer of its own,
which follows the policy's schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer, TrainerCallback
from trl.models.utils import prepare_deepspeed, unwrap_model_for_generation

from ftcli.core.errors import ConfigError, Problem
from ftcli.runs.checkpoint_kind import CRITIC_OPTIMIZER


def is_sharded(trainer: Trainer) -> bool:
    """Whether the trainer's model is sharded over the processes.

    Raises:
        ConfigError: the kind of sharding does not support further networks.
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return False
    if trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.fsdp_version != 2:
        what = "FSDP version 1 does not support a second network beside the policy"
        raise ConfigError(Problem("train.fsdp_config.version", what, "leave it out: 2 is the default"))
    if trainer.args.fp16:
        what = "the loss scale of a sharded policy does not cover its critic"
        raise ConfigError(Problem("train.fp16", what, "use train.bf16=true, or hardware without train.fsdp"))
    return True


def prepared(trainer: Any, network: nn.Module) -> nn.Module:
    """A network that trains beside the policy, prepared for all processes; sharded (FSDP2) if the policy is."""
    if not trainer.is_sharded:
        return cast(nn.Module, trainer.accelerator.prepare_model(network))
    # Each transformer layer is a unit of its own, and the rest is one more.
    blocks: set[str] = set()
    for module in network.modules():
        blocks |= set(getattr(module, "_no_split_modules", None) or ())
    for module in network.modules():
        if type(module).__name__ in blocks:
            fully_shard(module)
    return fully_shard(network)


def prepared_reference(trainer: Any, network: nn.Module) -> nn.Module:
    """A frozen copy of the policy, prepared for all processes like the policy."""
    if not trainer.is_sharded:
        return cast(nn.Module, trainer.accelerator.prepare_model(network, evaluation_mode=True))
    if trainer.is_deepspeed_enabled:
        return cast(nn.Module, prepare_deepspeed(network, trainer.accelerator))
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return cast(nn.Module, fsdp2_prepare_model(trainer.accelerator, network)).eval()


@contextmanager
def whole_model(trainer: Any, model: Any) -> Iterator[Any]:
    """The unwrapped model with all its weights on each process, so that each may sample as much as it needs.

    With shards, every process would have to take part in every token of every other.

    Args:
        model: as wrapped by the Trainer.
    """
    checkpointing = trainer.args.gradient_checkpointing_kwargs
    # TRL gathers DeepSpeed's weights.
    with unwrap_model_for_generation(model, trainer.accelerator, gradient_checkpointing_kwargs=checkpointing) as plain:
        shards = [module for module in plain.modules() if isinstance(module, FSDPModule)]
        for module in shards:
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield plain
        finally:
            for module in shards:
                reshards = bool(trainer.accelerator.state.fsdp_plugin.reshard_after_forward)
                # The root never reshards after its forward.
                module.set_reshard_after_forward(reshards and module is not shards[0], recurse=False)
                module.reshard()


class CriticOptimizer(TrainerCallback):
    """The optimizer of a critic beside a sharded policy."""

    def __init__(self, trainer: Any, critic: nn.Module) -> None:
        self._trainer, self._critic = trainer, critic
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        self._rate = trainer.args.value_learning_rate or trainer.args.learning_rate
        trained = [parameter for parameter in critic.parameters() if parameter.requires_grad]
        settings |= {"lr": self._rate, "weight_decay": trainer.args.weight_decay}
        self._optimizer = kind(trained, **settings)

    def clip(self, model: nn.Module) -> Any:
        """Clip the gradients of policy and critic by their common norm; DeepSpeed clips the policy's itself."""
        own, most = self._trainer, self._trainer.args.max_grad_norm
        critic = list(self._critic.parameters())
        if own.is_deepspeed_enabled:
            clip_grads_with_norm_(critic, most, norm_of(critic))
            return own.accelerator.clip_grad_norm_(model.parameters(), most)
        policy = list(model.parameters())
        total = torch.linalg.vector_norm(torch.stack([norm_of(policy), norm_of(critic)]))
        for parameters in (policy, critic):
            clip_grads_with_norm_(parameters, most, total)
        return total

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Step with the policy, at the same point of the schedule."""
        factor = self._trainer._get_learning_rate() / self._trainer.args.learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * factor
        self._optimizer.step()

    def save(self, folder: Path) -> None:
        """Write this process's part into a checkpoint."""
        state = self._optimizer.state_dict()
        state["state"] = {
            index: {name: local(value) for name, value in values.items()} for index, values in state["state"].items()
        }
        torch.save(state, self._file(folder))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in a world of the same size."""
        state = torch.load(self._file(folder), map_location="cpu", weights_only=True)
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for index, values in state["state"].items():
            state["state"][index] = {name: _as(value, parameters[index]) for name, value in values.items()}
        self._optimizer.load_state_dict(state)

    def _file(self, folder: Path) -> Path:
        return folder / CRITIC_OPTIMIZER.format(self._trainer.args.process_index)


def norm_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of the parameters' gradients over all processes."""
    return whole(get_total_norm([each.grad for each in parameters if each.grad is not None]))


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's full tensors, on the CPU; every process must call this."""
    return {name: whole(value).detach().cpu().contiguous() for name, value in network.state_dict().items()}


def put_whole_state(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load full tensors into a network; each process keeps its own shard."""
    with torch.no_grad():
        for name, own in network.state_dict().items():
            value = tensors[name].to(own.device)
            own.copy_(distribute_tensor(value, own.device_mesh, own.placements) if isinstance(own, DTensor) else value)


def whole(value: Tensor) -> Tensor:
    """The full tensor, gathered from the shards of all processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Any) -> Any:
    """This process's shard of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def _as(value: Any, parameter: Tensor) -> Any:
    """A saved shard as part of a parameter's DTensor; step counters are not sharded and stay as they are."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.to_local().shape:
        return value
    return DTensor.from_local(
        value.to(parameter.device), parameter.device_mesh, parameter.placements,
        shape=parameter.shape, stride=parameter.stride(), run_check=False,
    )  # fmt: skip


@contextmanager
def whole_weights() -> Iterator[None]:
    """Load models unsharded, even under ZeRO-3, which would shard every model that is loaded."""
    from transformers.integrations import deepspeed

    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
