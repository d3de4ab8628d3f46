"""LoRA whose initialisation changes the base: PiSSA (Meng et al. 2024, arXiv:2404.02948), OLoRA, CorDA and LoRA-GA.

Such an initialisation has three traps, all found with the installed PEFT:

- The model with its adapter disabled is the residual and no longer the base, so a preference method's reference would
  be wrong. Here the reference is a frozen copy of the initial adapter on the same residual, also where its
  log-probabilities are precomputed.
- The saved adapter fits a base that nobody else has. Here the trained model is converted back to its own base as a
  plain LoRA of twice the rank, W + s(BA − B₀A₀), before it is measured and saved (section 3 and appendix C of the
  paper).
- The fast decomposition (`pissa_niter_N`) is random, so its residual could not be computed again. After the conversion
  nothing needs it.

LoftQ leaves the quantised base as it is and starts from what is missing of it, so only its reference is special.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel
from trl.trainer.utils import hash_module

from ftcli.peft_methods.initialisations import INITIALISATIONS, initialisation
from ftcli.worker.tuners.adapter_tensors import complete
from ftcli.worker.tuners.support import Support

_NAME, REFERENCE, _PLACEHOLDER = "default", "ref", "placeholder"
"""PEFT's name for the adapter that trains, and TRL's for the frozen copy that is its reference."""


class Residual(Support):
    """Does nothing for the usual initialisations, which leave the base unchanged."""

    _start: dict[str, torch.Tensor] | None = None

    def trainer_made(self, trainer: Any) -> None:
        """Keep the initial adapter, and give it to the trainer as the reference if the method has one."""
        chosen = initialisation(self.settings)
        if not chosen.moves_base and chosen is not INITIALISATIONS["loftq"]:
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        self._start = {
            name: tensor.clone() for name, tensor in get_peft_model_state_dict(model, adapter_name=_NAME).items()
        }
        has_reference = getattr(trainer, "has_reference", hasattr(trainer, "ref_model"))
        if not has_reference or trainer.ref_model is not None:
            return
        model.add_adapter(REFERENCE, replace(model.peft_config[_NAME], init_lora_weights=True))
        _put(model, self._start, REFERENCE)
        model.set_adapter(_NAME)
        for name, parameter in model.named_parameters():
            if f".{REFERENCE}." in name:
                parameter.requires_grad_(False)
        if getattr(trainer, "precompute_ref_logps", False):
            _precompute_again(trainer)

    def settle(self, trainer: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        """Convert the adapter on the residual into a plain LoRA of twice the rank on the base."""
        if self._start is None or not initialisation(self.settings).moves_base:
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        trained = get_peft_model_state_dict(model, adapter_name=_NAME)
        config = model.peft_config[_NAME]
        _put_base_back(model, load_base())
        plain = _twice(config)
        # A placeholder keeps one adapter present: PEFT cannot delete the last one of a fully trained module.
        model.add_adapter(_PLACEHOLDER, plain)
        model.set_adapter(_PLACEHOLDER)
        for name in (REFERENCE, _NAME):
            if name in model.peft_config:
                model.delete_adapter(name)
        model.add_adapter(_NAME, replace(plain))
        _put(model, _against(trained, self._start), _NAME)
        model.set_adapter(_NAME)
        model.delete_adapter(_PLACEHOLDER)
        self._start = None


def _put(model: Any, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Set every tensor of an adapter."""
    set_peft_model_state_dict(model, tensors, adapter_name=name)
    complete(model, tensors, name, "peft")


def _precompute_again(trainer: Any) -> None:
    """Recompute the reference's log-probabilities: TRL did so in its constructor, on the bare residual."""
    arguments, stale = trainer.args, ["ref_chosen_logps", "ref_rejected_logps"]
    trainer._precompute_model_hash = hash_module(trainer.model)  # names TRL's cache of them

    def anew(rows: Any, name: str, own_batch_size: int) -> Any:
        batch_size = arguments.precompute_ref_batch_size or own_batch_size
        return trainer._precompute_ref_logps(rows.remove_columns(stale), name, batch_size)

    trainer.train_dataset = anew(trainer.train_dataset, "train", arguments.per_device_train_batch_size)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = anew(trainer.eval_dataset, "eval", arguments.per_device_eval_batch_size)


def _put_base_back(model: Any, base: PreTrainedModel) -> None:
    """Restore the weights below the adapters to those that the run started from."""
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module.get_base_layer(), "weight"):
            with torch.no_grad():
                module.get_base_layer().weight.copy_(base.get_submodule(name).weight)


def _twice(config: Any) -> Any:
    """The config of twice the rank under which each update keeps its scale: α/r, or α/√r with rsLoRA."""
    factor = math.sqrt(2) if config.use_rslora else 2
    return replace(
        config,
        init_lora_weights=True,
        r=2 * config.r,
        lora_alpha=config.lora_alpha * factor,
        rank_pattern={name: 2 * rank for name, rank in (config.rank_pattern or {}).items()},
        alpha_pattern={name: alpha * factor for name, alpha in (config.alpha_pattern or {}).items()},
    )


def _against(trained: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """BA − B₀A₀ as one pair of matrices: A stacked on A₀, of shape (2r, in), and B beside −B₀, of shape (out, 2r)."""
    result = dict(trained)
    for name, tensor in trained.items():
        # For an embedding, A is (r, vocabulary) and B (hidden, r): the same dimensions grow.
        if "lora_A" in name or "lora_embedding_A" in name:
            result[name] = torch.cat([tensor, start[name]], dim=0)
        elif "lora_B" in name or "lora_embedding_B" in name:
            result[name] = torch.cat([tensor, -start[name]], dim=1)
    return result
