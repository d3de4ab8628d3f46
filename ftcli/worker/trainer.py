"""The declared trainer, wrapped for what ftcli promises: safe checkpoints, our own tokens, no drafted model card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, TrainerCallback
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.methods.base import Method
from ftcli.worker.arguments import load_class
from ftcli.worker.checkpoint import with_safe_checkpoints


@cache
def trainer_class(path: str) -> type[Any]:
    """The trainer that a method declares as `module:Class`, with what ftcli adds to it."""
    declared = load_class(path)

    class Prepared(declared):  # type: ignore[misc, valid-type]
        """Takes rows that are tokens already, whatever the method calls them."""

        def _prepare_dataset(self, dataset: Dataset | IterableDataset, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: the run directory says more about a checkpoint than a drafted card."""

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
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """The method's trainer around a loaded model.

    Args:
        reference: a frozen second model, for methods that have the role and train all parameters.
        peft: the PEFT config that the trainer wraps the model with, or None.
    """
    arguments: dict[str, Any] = {"ref_model": reference} if reference is not None else {}
    return trainer_class(method.trainer)(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=list(callbacks),
        **arguments,
    )


def needs_reference(method: Method, peft: Any) -> bool:
    """Whether a second copy of the model is held: an adapter is simply switched off instead."""
    return "reference" in method.roles and peft is None
