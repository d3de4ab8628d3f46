"""KTO's reference point, over all answers of an optimiser step: of every process and every accumulated batch.

Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1: each prompt x of a batch is paired with the answer y' of another
one, and the point is ẑ = max(0, mean of log π(y'|x) − log π_ref(y'|x)). TRL pairs and averages within one forward pass,
so the point depended on how a batch was divided. No gradient passes through it, so the first pass of a step computes it
for the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from transformers import Trainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from ftcli.worker.trainers.units import REPEATED

Answer = list[int]
Ends = list[tuple[Answer | None, Answer | None]]
"""Of each batch of a process, the last answer that is labelled good and the last one that is labelled bad."""
_SIDES = (True, False)


class StepReference(Trainer):
    """Mixin before TRL's KTO trainer. Outside of a training step the point is that of the batch, as in TRL."""

    calculate_KL: bool
    sequences: DataCollatorForUnpairedPreference
    """Lays sequences out as a batch."""
    _step: Sequence[dict[str, Any]] | None = None
    """The batches of the step that this process trains on."""
    _pairs: list[dict[str, Any]] | None
    _counts_in: list[bool]
    """Of each batch, whether it is no repeated one."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """As its parent; remembers the batches, whose divergence is computed with the first of them."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        self._step, self._pairs, self._means = batches, None, dict[bool, Tensor]()
        self._counts_in = [REPEATED not in batch for batch in batches]
        return batches, count

    def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> Any:
        """Mean log-probability of the step's mismatched answers under a model, (); TRL subtracts and averages two."""
        if not self.calculate_KL or not self.model.training or self._step is None:
            return super()._compute_kl_logps(model, batch)  # type: ignore[misc]
        of_policy = torch.is_grad_enabled()  # TRL turns gradients off around the reference
        if of_policy not in self._means:
            if self._pairs is None:
                self._pairs = self._mismatched(self._step)
            # Sums of hundreds of nats: the difference of two means would lose its digits in float32.
            total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
            for pairs, counts in zip(self._pairs, self._counts_in, strict=True):
                logps = super()._compute_kl_logps(model, pairs)  # type: ignore[misc]
                if counts:
                    total += torch.stack([logps.double().sum(), torch.tensor(len(logps), device=logps.device)])
            # The accelerator's own gathers only what TRL reports, one process at a time (unit_means.py).
            sums = gather(total[None]).sum(0)
            self._means[of_policy] = sums[0] / sums[1]
        return self._means[of_policy]

    def _mismatched(self, batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each batch with every prompt paired with the answer before its own in the step."""
        apart = [_sequences(batch) for batch in batches]
        real = [sequences for sequences, counts in zip(apart, self._counts_in, strict=True) if counts]
        own: Ends = [(_last(sequences, True), _last(sequences, False)) for sequences in real]
        ends: list[Ends] = gather_object([own])
        found = []
        for index, sequences in enumerate(apart):
            for side in _SIDES if self._counts_in[index] else ():
                answer = answer_before(ends, index, self.args.process_index, side)
                for sequence in (each for each in sequences if each["label"] is side):
                    sequence["KL_completion_ids"], answer = answer, sequence["completion_ids"]
            for sequence in sequences:  # of a batch that only keeps this process in step with the others
                sequence.setdefault("KL_completion_ids", sequence["completion_ids"])
            laid_out = DataCollatorForUnpairedPreference.torch_call(self.sequences, sequences)
            tensors = {name: value for name, value in laid_out.items() if name.startswith("KL_")}
            found.append({name: value.to(self.accelerator.device) for name, value in tensors.items()})
        return found


def answer_before(ends: Sequence[Ends], batch: int, process: int, side: bool) -> Answer | None:
    """The answer before the first one of a batch with that label, in an order that does not depend on the division.

    The order is all good answers of the step, then all bad ones, each by rows: row by row through the first batch of
    each process, then through the second of each, and so on. The last answer comes before the first.

    Args:
        ends: of each process.
    """
    order = [
        (label, index, number)
        for label in _SIDES
        for index in range(max(map(len, ends)))
        for number in range(len(ends))
        if index < len(ends[number])
    ]
    at = order.index((side, batch, process))
    earlier = reversed(order[at:] + order[:at])
    last_ones = (ends[number][index][_SIDES.index(label)] for label, index, number in earlier)
    return next((answer for answer in last_ones if answer is not None), None)


def _sequences(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The prompts and answers of a batch as token ids, with their labels."""
    own, real = batch["completion_mask"].bool(), batch["attention_mask"].bool()
    return [
        {"prompt_ids": ids[there & ~answer].tolist(), "completion_ids": ids[answer].tolist(), "label": bool(label)}
        for ids, there, answer, label in zip(batch["input_ids"], real, own, batch["label"], strict=True)
    ]


def _last(sequences: Sequence[dict[str, Any]], side: bool) -> Answer | None:
    return next((each["completion_ids"] for each in reversed(sequences) if each["label"] is side), None)
