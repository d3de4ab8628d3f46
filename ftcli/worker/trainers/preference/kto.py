"""KTO on labelled answers, and on pairs, which are split; the weights are balanced by the numbers of each label.

Differs from TRL in two things. TRL pairs up the answers that estimate the KL term in advance, from neighbours in a
fixed order, so rows are never shuffled and a file sorted by label trains badly; here they are paired as a step begins.
And the KL term is a mean over the whole step, not over the batch of one forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow.compute as pc
import torch
from datasets import Dataset
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from ftcli.worker.process.own_lines import say
from ftcli.worker.trainers.preference.held_out_reference import SIDES, HeldOutReference, with_mismatched
from ftcli.worker.trainers.preference.step_reference import StepReference
from ftcli.worker.trainers.units import Units
from ftcli.worker.trainers.weighted_loss import WeighedRows

_CHUNK = 10_000
"""Rows counted at a time: a memory-mapped set may be larger than memory."""
RATIO = (1.0, 4 / 3)
"""Range for weight × number of good answers over the same of bad ones (arXiv:2402.01306, equation 8)."""


@dataclass
class KtoConfig(KTOConfig):  # type: ignore[misc]
    """Fields of KTO with derived defaults."""

    desirable_weight: float | None = None
    """Weight of good answers; null balances them with the bad ones by their numbers."""
    undesirable_weight: float | None = None
    """Weight of bad answers; null balances them with the good ones by their numbers."""
    train_sampling_strategy: str = "random"


class JudgedRows(DataCollatorForUnpairedPreference):  # type: ignore[misc]
    """Rows of `prompt_ids`, `chosen_ids` and `rejected_ids`, of which one may be empty, as a KTO batch.

    A pair gives two sequences. Each sequence's KL answer is the answer of the sequence before it, in held-out rows of
    the one before it in the whole set; a training step pairs them anew, over all its batches.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """As its parent."""
        sequences = [
            {"prompt_ids": row["prompt_ids"], "completion_ids": row[side], "label": good}
            | ({"KL_completion_ids": row[SIDES[side]]} if SIDES[side] in row else {})
            for side, good in (("chosen_ids", True), ("rejected_ids", False))
            for row in examples
            if row[side]
        ]
        for index, sequence in enumerate(sequences):
            sequence.setdefault("KL_completion_ids", sequences[index - 1]["completion_ids"])
        batch = dict(super().torch_call(sequences))
        if "row_weight" in examples[0]:
            weights = [row["row_weight"] for side in ("chosen_ids", "rejected_ids") for row in examples if row[side]]
            batch["row_weight"] = torch.tensor(weights)
        return batch


class KtoTrainer(WeighedRows, StepReference, HeldOutReference, KTOTrainer):  # type: ignore[misc]
    """Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    _tag_names: ClassVar[list[str]] = ["trl", "kto"]
    rows_stand_alone = False
    """Each prompt is paired with the answer of the row before it, for the reference point."""
    loss_unit = "answers"
    metric_units: ClassVar = {
        "entropy": "tokens",
        **{f"logits/{side}": f"{side}_tokens" for side in ("chosen", "rejected")},
        **{f"{name}/{side}": side for name in ("rewards", "logps") for side in ("chosen", "rejected")},
    }
    desirable_weight: Any
    undesirable_weight: Any

    def __init__(self, *, args: KtoConfig, train_dataset: Any, processing_class: Any, **more: Any) -> None:
        good, bad = _counts(train_dataset)
        args.desirable_weight, args.undesirable_weight = weights(
            good, bad, args.desirable_weight, args.undesirable_weight
        )
        if args.process_index == 0 and train_dataset is not more.get("eval_dataset"):  # else it only measures
            _show_weights(good, bad, args)
        self.sequences = more["data_collator"] = JudgedRows(
            pad_token_id=processing_class.pad_token_id, pad_to_multiple_of=args.pad_to_multiple_of
        )
        order, args.train_sampling_strategy = args.train_sampling_strategy, "sequential"  # else TRL refuses
        if isinstance(more.get("eval_dataset"), Dataset):
            more["eval_dataset"] = with_mismatched(more["eval_dataset"])
        super().__init__(args=args, train_dataset=train_dataset, processing_class=processing_class, **more)
        args.train_sampling_strategy = order

    def derived(self) -> dict[str, float]:
        """As its parent: the weights of the labels."""
        return {name: getattr(self, name) for name in ("desirable_weight", "undesirable_weight")}

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """As its parent."""
        good = inputs["label"].bool()
        tokens = inputs["completion_mask"][:, 1:].sum(1)
        of_each = {"chosen": good.sum(), "rejected": (~good).sum()}
        of_tokens = {"chosen_tokens": tokens[good].sum(), "rejected_tokens": tokens[~good].sum()}
        return {"answers": len(good), "tokens": tokens.sum(), **of_each, **of_tokens}

    def completed(self, means: dict[str, float]) -> dict[str, float]:
        """As its parent: the margin is that of the mean rewards, where there are answers of both labels."""
        means.pop("rewards/margins", None)
        ends = ("rewards/chosen", "rewards/rejected")
        if set(ends) <= means.keys():
            means["rewards/margins"] = means[ends[0]] - means[ends[1]]
        return means

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """TRL's loss, in which the weight of a label becomes that of each sequence."""
        if self.relative_weights is None:
            return super()._compute_loss(model, inputs, return_outputs)
        good, of_labels = inputs["label"].bool(), (self.desirable_weight, self.undesirable_weight)
        self.desirable_weight = of_labels[0] * self.relative_weights[good]
        self.undesirable_weight = of_labels[1] * self.relative_weights[~good]
        try:
            return super()._compute_loss(model, inputs, return_outputs)
        finally:
            self.desirable_weight, self.undesirable_weight = of_labels


def weights(good: int, bad: int, desirable: float | None, undesirable: float | None) -> tuple[float, float]:
    """The weights of good and of bad answers: as given, or else such that both labels have the same total weight.

    Args:
        good: number of good answers; if either number is 0, nothing is balanced.
        bad: number of bad ones.
    """
    if not good or not bad:
        return desirable or 1.0, undesirable or 1.0
    if desirable is None and undesirable is None:
        return (bad / good, 1.0) if good < bad else (1.0, good / bad)
    if desirable is None:
        assert undesirable is not None
        return undesirable * bad / good, undesirable
    return desirable, desirable * good / bad if undesirable is None else undesirable


def _counts(rows: Any) -> tuple[int, int]:
    """The numbers of good and bad answers; (0, 0) for a stream, whose rows are not known in advance."""
    if not isinstance(rows, Dataset):
        return 0, 0
    good = bad = 0
    for table in rows.with_format("arrow").iter(batch_size=_CHUNK):
        good += _filled(table.column("chosen_ids"))
        bad += _filled(table.column("rejected_ids"))
    return good, bad


def _filled(answers: Any) -> int:
    """How many lists of a column are not empty."""
    return int(pc.sum(pc.greater(pc.list_value_length(answers), 0)).as_py() or 0)


def _show_weights(good: int, bad: int, config: KtoConfig) -> None:
    if not good or not bad:
        what = "all the same" if good or bad else "not counted in a stream"
        say(f"labels  {what}: weights {config.desirable_weight:g} and {config.undesirable_weight:g}")
        return
    assert config.desirable_weight is not None
    assert config.undesirable_weight is not None
    weighed = f"weights {config.desirable_weight:.3g} and {config.undesirable_weight:.3g}"
    say(f"labels  {good} good, {bad} bad; {weighed}")
    ratio = config.desirable_weight * good / (config.undesirable_weight * bad)
    if not RATIO[0] - 1e-6 <= ratio <= RATIO[1] + 1e-6:
        wanted = f"{RATIO[0]:g} to {RATIO[1]:.3g}"
        say(
            f"warning: good answers weigh {ratio:.3g} times as much as bad ones; the paper's range is {wanted}. "
            "Leave out method.desirable_weight and method.undesirable_weight to balance them"
        )
