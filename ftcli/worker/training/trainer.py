"""The declared trainer with what ftcli adds: safe checkpoints, our own tokens, the tuner's hooks, no model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, TrainerCallback
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from trl.trainer.reward_trainer import DataCollatorForPreference

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.formats.columns import SOFT_LABEL
from ftcli.methods.method import Method
from ftcli.worker.distributed.load_once import as_first
from ftcli.worker.models.architecture import has_router
from ftcli.worker.models.new_tokens import readable_head, saving_rows_only
from ftcli.worker.process.signals import EvaluationCount
from ftcli.worker.tokenise.collate import collator_of
from ftcli.worker.trainers import cpu_head, without_padding
from ftcli.worker.trainers.fused_head import name_experts, train_by_own_logits
from ftcli.worker.trainers.units import Counted
from ftcli.worker.trainers.weighted_loss import Weighing
from ftcli.worker.training.checkpoint import with_safe_checkpoints
from ftcli.worker.training.library_configs import load_class
from ftcli.worker.training.run_length import KnownLength
from ftcli.worker.training.unit_means import UnitMeans
from ftcli.worker.training.watch.finite import FiniteSteps
from ftcli.worker.tuners.support import Support


@cache
def trainer_class(path: str) -> type[Any]:
    """The trainer that a method declares as `module:Class`, with what ftcli adds to it."""
    declared = load_class(path)
    cpu_head.install()
    means = (UnitMeans,) if issubclass(declared, Counted) else ()

    class Prepared(FiniteSteps, KnownLength, *means, declared):  # type: ignore[misc, valid-type]
        """Takes rows that are already tokenised, and calls the tuner's hooks."""

        packs = False
        lays_out_rows = getattr(declared, "lays_out_rows", False)
        """Whether its batches have a layout of their own."""
        _operations: int | None = None
        """Of a token, where they were counted."""

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            """The tuner's optimiser if it has one."""
            if self.optimizer is None:  # type: ignore[has-type]
                self.optimizer = self.support.optimizer(self)
            return super().create_optimizer(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """The method's loss, plus the tuner's penalty in training."""
            # Positions keep packed documents apart, but the model only reads them if there is no mask.
            if self.packs:
                self.tokens_in_blocks = int(inputs.pop("attention_mask").sum())
            found = super().compute_loss(model, inputs, *args, **kwargs)
            penalty = self.support.penalty(model) if self.model.training else None
            if penalty is None:
                return found
            # As in Trainer.training_step: a loss over all tokens of the step is not divided by the accumulated batches.
            whole = self.model_accepts_loss_kwargs and kwargs.get("num_items_in_batch") is not None
            scaled = self.loss_is_scaled_for_ga if self.loss_is_scaled_for_ga is not None else whole
            penalty = penalty / (self.current_gradient_accumulation_steps if scaled else 1)
            return (found[0] + penalty, *found[1:]) if isinstance(found, tuple) else found + penalty

        def floating_point_ops(self, inputs: Any) -> int:
            """As its parent, which walks over all modules to count the parameters anew for each batch."""
            name = getattr(self.model, "main_input_name", "input_ids")
            tokens = inputs[name].numel() if isinstance(inputs, dict) and name in inputs else 0
            if not tokens:
                return int(super().floating_point_ops(inputs))
            if self._operations is None:
                self._operations = super().floating_point_ops(inputs) // tokens
            return self._operations * tokens

        def _track_num_input_tokens(self, inputs: Any) -> None:
            """As its parent, without a warning at every step of a trainer that counts what it samples itself."""
            if getattr(self.model, "main_input_name", "input_ids") in inputs:
                super()._track_num_input_tokens(inputs)

        def _prepare_dataset(self, dataset: Dataset | IterableDataset, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Writes nothing: the run directory says more than a generated card."""

    Prepared.__name__ = Prepared.__qualname__ = declared.__name__
    return with_safe_checkpoints(Prepared)


def make_trainer(
    method: Method,
    config: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Dataset | IterableDataset,
    held_out: Dataset | None,
    reference: PreTrainedModel | None = None,
    peft: Any = None,
    support: Support | None = None,
    warmup_from_zero: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **more: Any,
) -> Any:
    """The method's trainer around a loaded model.

    Args:
        reference: a frozen second model, for methods with a reference and full fine-tuning.
        peft: the PEFT config with which the trainer wraps the model, or None.
        support: the tuner's hooks.
        warmup_from_zero: as RunSpec.
        more: further arguments of this trainer.

    Raises:
        ConfigError: a weight for the loss of a router that the model has not.
    """
    arguments: dict[str, Any] = {**more, **({"ref_model": reference} if reference is not None else {})}
    if method.joins_prompt:
        arguments["data_collator"] = JoinedPairs(
            pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=config.pad_to_multiple_of
        )
    with router_loss_where_there_is_a_router(config, model):
        trainer = trainer_class(method.trainer)(
            model=model,
            args=config,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=peft,
            callbacks=[*callbacks, EvaluationCount()],
            **arguments,
        )
    name_experts(model.config)
    saving_rows_only(readable_head(trainer.model))
    train_by_own_logits(trainer.model, partial(as_first, trainer))
    if getattr(trainer, "ref_model", None) is not None:
        train_by_own_logits(trainer.ref_model)
    if _is_quantised(model) or ((config.bf16 or config.fp16) and not config.deepspeed):
        hold_masters(trainer.model)
    _spare_padding(trainer, tokenizer.pad_token_id)
    if isinstance(trainer, Weighing):
        trainer.take_weights()
    trainer.support = support or Support({})
    trainer.support.trainer_made(trainer)
    trainer.warmup_from_zero = warmup_from_zero
    return trainer


def _spare_padding(trainer: Any, pad_token_id: int) -> None:
    """Lay packed rows out in blocks, and let the model compute no padding and nothing across documents."""
    config = trainer.args
    if getattr(config, "packing", False):
        # Set afterwards, because TRL's constructor refuses another collator with packing.
        trainer.data_collator = collator_of(config, trainer.model, pad_token_id)
        trainer.packs = True
    if not trainer.lays_out_rows:
        for each in filter(None, (trainer.model, getattr(trainer, "ref_model", None))):
            without_padding.leave_out(trainer.accelerator.unwrap_model(each), config)


@contextmanager
def router_loss_where_there_is_a_router(config: Any, model: PreTrainedModel) -> Iterator[None]:
    """Keep TRL from the loss of a router that a class of mixtures has, and this model has not.

    TRL asks for it by the fields of the configuration, and would fail at the first step.

    Raises:
        ConfigError: the run weighs that loss.
    """
    text = model.config.get_text_config()
    if not hasattr(text, "output_router_logits") or not hasattr(config, "router_aux_loss_coef") or has_router(model):
        yield
        return
    if config.router_aux_loss_coef:
        what = "weighs the loss of a router, and this model has no experts"
        raise ConfigError(Problem("method.router_aux_loss_coef", what, "remove it"))
    own = getattr(text, "router_aux_loss_coef", None)
    config.router_aux_loss_coef = 0.0
    yield
    if own is not None:
        text.router_aux_loss_coef = own  # which is saved with the model, and which TRL set to 0


def hold_masters(model: torch.nn.Module) -> None:
    """Hold what trains in float32, in place: in a half-precision type small updates vanish.

    TRL also casts what trains on a quantised base to bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _is_quantised(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


class JoinedPairs(DataCollatorForPreference):  # type: ignore[misc]
    """Pairs of answers for a trainer that takes prompt and answer as one sequence."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """As its parent, from `prompt_ids`, `chosen_ids` and `rejected_ids`, with the `margin` where rows have one, and
        with `chosen_probability`, (B,), where one of them has a soft label; a pair without one is certain."""
        sides = ("chosen_ids", "rejected_ids")
        joined = [
            {name: value for name, value in example.items() if name == "margin"}
            | {side: [*example["prompt_ids"], *example[side]] for side in sides}
            for example in examples
        ]
        soft = [example.get(SOFT_LABEL[0]) for example in examples]
        known = any(label is not None for label in soft)
        labels = {SOFT_LABEL[0]: torch.tensor([1.0 if label is None else label for label in soft])} if known else {}
        return {**super().torch_call(joined), **labels}


def needs_reference(method: Method, config: Any, peft: Any) -> bool:
    """Whether a second model is needed: one that is named, or a copy, unless an adapter can be disabled or all was
    precomputed."""
    if getattr(config, "reference_model", None):
        return True
    unused = method.samples and getattr(config, "beta", None) == 0
    precomputed = getattr(config, "precompute_ref_log_probs", False)
    return "reference" in method.roles and peft is None and not precomputed and not unused
