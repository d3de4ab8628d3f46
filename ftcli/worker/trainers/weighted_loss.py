"""Weights of tokens and of rows in the loss: the mean over an optimiser step, each term multiplied by its weight.

Tokens (SFT): Σ w·l / Σ w over the trained tokens of the step, of all its batches and processes. Rows (preferences): a
row's weight, divided by the mean weight of the step's rows, multiplies what the row adds to the loss, so that it counts
also where a batch has one row. A step in which all weights are 1 is computed as if there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers.units import REPEATED, Counted, Units

COLUMNS = ("weights", "row_weight")
"""Of the rows: a number for each token, or one for the row; missing or null is 1."""


def may_weigh(rows: Any) -> bool:
    """Whether rows may have weights: a data set with such a column, or a stream, whose rows are not known before."""
    if isinstance(rows, IterableDataset):
        return True
    return isinstance(rows, Dataset) and not set(COLUMNS).isdisjoint(rows.column_names)


class WithWeights:
    """A collator that adds the weights of its rows to the batch of another one.

    `weights` is of the shape of `input_ids`, `row_weight` has one number for each pair or sequence; float32.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], of_tokens: bool) -> None:
        self._collator, self._of_tokens = collator, of_tokens

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The other collator's batch, with weights."""
        if not self._of_tokens:
            rows = [{**row, "row_weight": _or_one(row.get("row_weight"))} for row in examples]
            return {"row_weight": torch.tensor([row["row_weight"] for row in rows]), **self._collator(rows)}
        rows = [{name: value for name, value in row.items() if name != "weights"} for row in examples]
        given = [torch.tensor(row.get("weights") or [1.0] * len(row["input_ids"])) for row in examples]
        batch = self._collator(rows)
        weights = torch.ones(batch["input_ids"].shape)
        if len(weights) == len(given):
            for row, own in zip(weights, given, strict=True):
                row[: len(own)] = own
        else:  # all rows of the batch laid end to end
            flat = torch.cat(given)
            weights[0, : len(flat)] = flat
        return {**batch, "weights": weights}


def _or_one(weight: float | None) -> float:
    return 1.0 if weight is None else float(weight)


class Weighing(Counted):
    """What trainers with weights share."""

    column = ""
    """The one of COLUMNS that its batches have."""
    weighs = False
    """Whether the rows may have weights."""
    _step_weighs = False

    def take_weights(self) -> None:
        """Let the rows' weights reach the loss; to be called when the collator is the last one."""
        self.weighs = may_weigh(self.train_dataset) or may_weigh(self.eval_dataset)
        if self.weighs:
            self.data_collator: Any = WithWeights(self.data_collator, self.column == "weights")  # type: ignore[has-type]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns  # type: ignore[has-type]
        if self.column not in columns:
            self._signature_columns = [*columns, self.column]

    def _begin_step(self, batches: Sequence[dict[str, Any]], device: torch.device) -> bool:
        """Note whether any process has another weight than 1 in this step."""
        if self.weighs:
            own = torch.tensor(any(bool((batch[self.column] != 1).any()) for batch in batches), device=device)
            self._step_weighs = bool(self.accelerator.gather(own[None].long()).any())
        return self._step_weighs


class WeighedTokens(Weighing):
    """Mixin before TRL's SFT trainer: each trained token's loss is multiplied by its weight."""

    column = "weights"

    loss_unit = "tokens"
    metric_units: ClassVar = {"entropy": "plain_tokens", "mean_token_accuracy": "plain_tokens"}

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """The trained tokens of a batch, each counted as its weight, and as 1."""
        trained = (inputs["labels"] != IGNORED)[:, 1:]
        weights = inputs.get("weights")
        weighed = trained if weights is None else trained * weights[:, 1:]
        return {"tokens": weighed.sum(), "plain_tokens": trained.sum()}

    def is_part(self, num_items_in_batch: Any) -> bool:
        """As its parent: it is, where the number is given."""
        return num_items_in_batch is not None

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """As its parent the number of trained tokens of the step; where they have weights, the sum of these.

        Counted here, as transformers counts the first token of each row for classes that are not named ForCausalLM,
        though none is predicted.
        """
        count = super()._get_num_items_in_batch(batch_samples, device)
        self._begin_step(batch_samples, device)
        if count is None:
            return None
        total = torch.stack([self.units(batch)["tokens"] for batch in batch_samples]).sum().to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total / (self.get_tp_size() * self.get_cp_size() * self.get_sp_size())

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's metrics, and the weighted mean of the loss of each token."""
        weights = inputs.pop("weights", None)
        in_step = self.model.training and self._step_weighs
        if weights is None or not (in_step or (not self.model.training and bool((weights != 1).any()))):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        called, outputs = recorded(model)
        labels = inputs["labels"]
        plain = super().compute_loss(called, inputs, return_outputs, num_items_in_batch)
        own = (weights * (labels != IGNORED))[:, 1:]
        total = own.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        smoothing = float(self.label_smoother.epsilon) if self.label_smoother and self.args.loss_type == "nll" else 0.0
        losses = smoothed_losses(outputs[0].logits, labels, smoothing) if smoothing else self._losses(outputs[0], own)
        loss = (losses * own).sum() / total.clamp(min=torch.finfo(torch.float32).tiny)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if self.aux_loss_enabled and not smoothing:  # a mean over the batch, as in TRL
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs[0].aux_loss / steps
        return (loss, plain[1]) if return_outputs else loss

    def _losses(self, outputs: Any, like: Tensor) -> Tensor:
        """The loss of each token but the first, (B, L − 1); prompt learning puts virtual tokens first."""
        log_probs: Tensor = outputs.log_probs[:, -like.size(1) :]
        return -log_probs * log_probs.exp().detach() if self.args.loss_type == "dft" else -log_probs


def recorded(model: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    """The model, and the list to which each of its outputs is added: TRL's losses keep theirs to themselves."""
    outputs: list[Any] = []

    def called(**arguments: Any) -> Any:
        outputs.append(model(**arguments))
        return outputs[-1]

    return called, outputs


def smoothed_losses(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """(1 − ε)·nll + ε·(mean over the vocabulary) of each token but the first, of shape (B, L − 1); ε is `share`."""
    log_probs = logits[:, -labels.size(1) : -1].float().log_softmax(-1)
    of_labels = log_probs.gather(-1, labels[:, 1:].clamp(min=0)[..., None]).squeeze(-1)
    return -(1 - share) * of_labels - share * log_probs.mean(-1)


class WeighedRows(Weighing):
    """Mixin before a preference trainer, which multiplies what each row adds to the loss by `relative_weights`."""

    column = "row_weight"
    relative_weights: Tensor | None = None
    """In a weighted step, the weight of each row of the batch over the mean weight of the step's rows, (B,)."""
    _mean_weight = 1.0

    def take_weights(self) -> None:
        """As its parent."""
        super().take_weights()
        self._held_out_mean = mean_weight(self.eval_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """As its parent; notes the mean weight of the step's rows."""
        if self._begin_step(batch_samples, device):
            own = [batch["row_weight"].to(device) for batch in batch_samples if REPEATED not in batch]
            weights = torch.cat([*own, torch.zeros(0, device=device)])
            sums = torch.stack([weights.sum(), torch.tensor(float(len(weights)), device=device)])
            total, rows = self.accelerator.gather(sums[None]).sum(0).tolist()
            self._mean_weight = total / rows
        return super()._get_num_items_in_batch(batch_samples, device)

    def mean_weight(self) -> float:
        """As its parent."""
        return self._mean_weight if self._step_weighs else 1.0

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As its parent, with `relative_weights` set where rows have weights."""
        weights = inputs.pop("row_weight", None)
        training = self.model.training
        if weights is not None and (self._step_weighs if training else self._held_out_mean is not None):
            self.relative_weights = weights / (self._mean_weight if training else self._held_out_mean)
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.relative_weights = None


def mean_weight(rows: Any) -> float | None:
    """The mean weight of the rows of a data set; None if they have none."""
    if not isinstance(rows, Dataset) or "row_weight" not in rows.column_names:
        return None
    table = rows.with_format("arrow").select_columns("row_weight")[:]
    return float(pc.mean(pc.fill_null(table.column("row_weight"), 1.0)).as_py())


def weighted_mean(losses: Tensor, relative: Tensor | None) -> Tensor:
    """The mean of the rows' losses, (B,), each times its relative weight if there are any."""
    return losses.mean() if relative is None else (losses * relative).mean()
