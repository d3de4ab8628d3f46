"""Partial fine-tuning: everything is frozen except the top decoder layers and the named modules."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ftcli.core.errors import ConfigError, Problem
from ftcli.worker.tuners.support import Support


class Freeze(Support):
    """Sets `requires_grad` before the trainer sees the model."""

    def model_loaded(self, model: PreTrainedModel) -> None:
        """Freeze the model except for what the settings name.

        Raises:
            ConfigError: the model lacks a named module, or has no list of layers.
        """
        model.requires_grad_(False)
        trainable: list[nn.Module] = []
        if count := int(self.settings.get("num_layers", 2)):
            trainable += list(_layers(model))[-count:]
        for entry in self.settings.get("modules") or ():
            found = [module for name, module in model.named_modules() if name == entry or name.endswith(f".{entry}")]
            if not found:
                what = f"peft.modules names {entry}, which the model does not have"
                raise ConfigError(
                    Problem("peft.modules", what, "name modules of the model, such as embed_tokens or lm_head")
                )
            trainable += found
        for module in trainable:
            module.requires_grad_(True)
        if (head := getattr(model, "score", None)) is not None:  # a newly initialised head must always be trained
            head.requires_grad_(True)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers: the list of modules with as many entries as the configuration has layers."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    what = f"{type(model).__name__} has no list of decoder layers"
    raise ConfigError(Problem("peft.num_layers", what, "set peft.num_layers=0 and name peft.modules"))
