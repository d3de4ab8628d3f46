"""The worker, which writes down how many bytes each process holds of its model.

    accelerate launch --multi_gpu --num_processes 2 … tests/sharded_bytes.py train RUN

RUN/bytes-RANK.json has the weights, the most gradients between two passes and before a step, and the optimiser's states
after it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainerCallback

from ftcli.worker.distributed.sharded import local


def size(tensors: Iterable[Any]) -> int:
    """Bytes of this process's parts of tensors; views of one buffer are counted once, and no more than are given.

    Single numbers, such as step counters, are left out.
    """
    own = {(each.data_ptr(), each.numel()): each for each in map(local, tensors) if isinstance(each, torch.Tensor)}
    buffers: dict[int, list[int]] = {}
    for each in own.values():
        if each.numel() > 1:
            storage = each.untyped_storage()
            buffers.setdefault(storage.data_ptr(), [storage.nbytes()]).append(each.numel() * each.element_size())
    return sum(min(whole, sum(views)) for whole, *views in buffers.values())


class Measured(TrainerCallback):
    """What a process holds in the first step of a run."""

    def __init__(self, trainer: Any, file: Path) -> None:
        self.trainer, self.file, self.gradients = trainer, file, 0

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimizer; None without it."""
        return self.trainer.model_wrapped.optimizer if self.trainer.is_deepspeed_enabled else None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """DeepSpeed steps in its backward pass, so its gradients are looked at there."""
        zero, before = self.zero, getattr(self.zero, "step", None)
        if zero is not None:

            def step(*args: Any, **kwargs: Any) -> Any:
                self.on_substep_end()
                return before(*args, **kwargs)

            zero.step = step

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """After every pass but the last of a step."""
        self.gradients = max(self.gradients, size(self.held_gradients()))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """After the last pass."""
        self.on_substep_end()

    def held_gradients(self) -> list[Any]:
        """Gradients wherever FSDP2, DeepSpeed or torch keep them."""
        model = self.trainer.model_wrapped
        # Of a parameter in two processes' parts, ZeRO-2 keeps the whole gradient between passes; not counted here.
        found: list[Any] = [parameter.grad for parameter in model.parameters()]
        for module in model.modules():
            if isinstance(module, FSDPModule):
                group = module._get_fsdp_state()._fsdp_param_group
                for each in group.fsdp_params if group else ():
                    whole = each.unsharded_accumulated_grad
                    found.append(
                        each._unsharded_param.grad if whole is None and hasattr(each, "_unsharded_param") else whole
                    )
        if self.zero is not None:
            for partition in getattr(self.zero, "averaged_gradients", {}).values():
                found += partition or []
            found.append(getattr(self.zero, "grad_partitions_flat_buffer", None))
        return found

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer has stepped."""
        if self.file.exists():
            return
        parameters = list(self.trainer.model_wrapped.parameters())
        weights = [getattr(each, "ds_tensor", each) for each in parameters]
        optimiser = self.trainer.optimizer
        if self.zero is not None:
            optimiser = self.zero.optimizer
            masters = "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"
            weights += [each for name in masters for each in getattr(self.zero, name, ())]
        states = [value for state in optimiser.state.values() for value in state.values()]
        found = {"weights": size(weights), "gradients": self.gradients, "optimiser": size(states)}
        self.file.write_text(json.dumps(found), encoding="utf-8")


def watch(run: Path) -> None:
    """Add `Measured` to the trainer that is about to train."""
    train = Trainer.train

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(Measured(self, run / f"bytes-{self.args.process_index}.json"))
        return train(self, *args, **kwargs)

    Trainer.train = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main

    folder = Path(sys.argv[2])
    watch(folder)
    leave(main(sys.argv[1:]), sys.argv[1:])
