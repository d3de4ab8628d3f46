"""The worker of a run, which writes down what its process holds of the model after the first step, and stops.

torchrun --nproc_per_node 2 -m tests.whole.held_bytes train RUN
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from ftcli.runs import rundir
from ftcli.worker.distributed.sharded import local
from ftcli.worker.training import run as training

FILE = "held-{}.json"


def held(parameter: Any) -> int:
    """Bytes of a parameter in this process, of its shard where it is sharded."""
    own: Tensor = getattr(parameter, "ds_tensor", None) if hasattr(parameter, "ds_id") else local(parameter)
    return own.numel() * own.element_size()


class Held(TrainerCallback):
    """Writes the bytes of the frozen and of the trained parameters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Write them, and stop."""
        quantised = [p for name, p in model.named_parameters() if "base_layer" in name and not p.requires_grad]
        found = {
            "quantised": sum(map(held, quantised)),
            "trained": sum(held(p) for p in model.parameters() if p.requires_grad),
        }
        rundir.write_json(self._folder / FILE.format(args.process_index), found)
        control.should_training_stop = True


if __name__ == "__main__":
    from ftcli.worker.__main__ import leave, main

    build = training.build_trainer

    def build_trainer(run: Any) -> Any:
        trainer = build(run)
        trainer.add_callback(Held(run.run_dir))
        return trainer

    training.build_trainer = build_trainer
    leave(main(sys.argv[1:]), sys.argv[1:])
