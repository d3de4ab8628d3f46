"""LoRA+: a higher learning rate for B matrices than for A (Hayou et al. 2024, arXiv:2402.12354, section 5)."""

from __future__ import annotations

from typing import Any

from peft.optimizers import create_loraplus_optimizer
from torch.optim import Optimizer

from ftcli.peft_methods.lora import LoraPlusSettings
from ftcli.worker.tuners.initialised import Initialised


class LoraPlus(Initialised):
    """LoRA with its own optimiser groups."""

    def optimizer(self, trainer: Any) -> Optimizer | None:
        """The optimiser that `train.optim` names, with PEFT's parameter group for each learning rate."""
        optimizer_class, values = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        usual = LoraPlusSettings()
        optimizer = create_loraplus_optimizer(
            trainer.accelerator.unwrap_model(trainer.model),
            optimizer_class,
            lr=values.pop("lr"),
            loraplus_lr_ratio=self.settings.get("loraplus_lr_ratio", usual.loraplus_lr_ratio),
            loraplus_lr_embedding=self.settings.get("loraplus_lr_embedding", usual.loraplus_lr_embedding),
            loraplus_weight_decay=trainer.args.weight_decay,
            **values,
        )
        if trainer.is_fsdp_enabled:  # whose checkpoints hold no group without parameters, as PEFT makes for embeddings
            optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
        return optimizer
