"""Losses and metrics as means over tokens, pairs or answers, however these are divided into batches and processes.

Trainers compute a mean of each batch, and TRL and transformers then take the mean of those. That changes with the size
of a batch and the number of processes, as a short batch or a batch of short rows weighs as much as any other, and rows
that fill up the last batch count twice. Here a value of a batch is multiplied by the number of what it is a mean over;
the sums of all batches and processes are added up, and divided once. What a trainer's values are means over, it says
itself (`Counted`).

In training the same numbers weigh the batches that are accumulated to a step, so that its gradient is that of the mean
over the step. Every process gives its last batch as it is; one that has none left repeats its first, with weight 0.

The held-out loss leaves out the loss of a mixture's router: that is no mean, but made of how the tokens that are
computed at once are spread over the experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor, distributed

from ftcli.worker.distributed.balanced_batches import balance
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers.units import LOWEST, REPEATED, Counted, Units

_GATHERS = ("gather", "gather_for_metrics")
_LOSS, _TOKENS = "loss", "num_tokens"


class Sums:
    """Sums and the numbers that they are sums over, by name; of this process until `together`."""

    def __init__(self) -> None:
        self.means: dict[str, list[float]] = {}
        """Name → [sum, number]."""
        self.ends: dict[str, tuple[str, float]] = {}
        """Name → which end, and its value."""

    def add(self, name: str, mean: float, number: float) -> None:
        """Add the mean of so many; that of none is not one."""
        if number:
            held = self.means.setdefault(name, [0.0, 0.0])
            held[0] += mean * number
            held[1] += number

    def stretch(self, name: str, end: str, value: float) -> None:
        """Take a value into the lowest or highest one."""
        known = self.ends.get(name, (end, value))[1]
        self.ends[name] = (end, min(known, value) if end == LOWEST else max(known, value))

    def together(self, world_size: int) -> Sums:
        """The sums of all processes; each has to call this."""
        if world_size == 1:
            return self
        parts: list[Any] = [None] * world_size
        distributed.all_gather_object(parts, (self.means, self.ends))
        found = Sums()
        for means, ends in parts:
            for name, (total, number) in means.items():
                held = found.means.setdefault(name, [0.0, 0.0])
                held[0] += total
                held[1] += number
            for name, (end, value) in ends.items():
                found.stretch(name, end, value)
        return found

    def values(self) -> dict[str, float]:
        """Each mean, and each end."""
        return {
            **{name: total / number for name, (total, number) in self.means.items()},
            **{name: value for name, (_, value) in self.ends.items()},
        }


def _as_it_is(data: Any, *_: Any, **__: Any) -> Any:
    return data


def as_numbers(units: Units) -> dict[str, float]:
    """The units as numbers, copied from the device at once."""
    if not units:
        return {}
    numbers = [torch.as_tensor(number, dtype=torch.float32) for number in units.values()]
    device = next((number.device for number in numbers if number.device.type != "cpu"), "cpu")
    return dict(zip(units, torch.stack([number.to(device) for number in numbers]).tolist(), strict=True))


class UnitMeans(Counted):
    """Mixin before a `Counted` trainer."""

    _metrics: dict[str, dict[str, list[float]]]
    _total_train_tokens: int
    aux_loss_enabled: bool
    tokens_in_blocks: int | None = None
    """Tokens of a batch of packed blocks that are not padding; the trainer sees no mask, and counts all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._noted: dict[str, Sums] = defaultdict(Sums)
        """What is to be logged next, in "train" and in "eval"."""
        self._held_out = Sums()
        """The terms of the held-out loss, by their units."""
        self._held_rows: dict[str, list[Tensor]] = defaultdict(list)
        """Values of each held-out row, by name."""
        self._in_batch: dict[str, float] = {}
        """The units of the batch that is computed, of the step of all processes, and how many batches that has here."""
        self._in_step: dict[str, float] = {}
        self._batches = 1
        self._repeats: dict[bool, bool] = {}
        """Whether this process repeats a batch at the end of the training rows (True) and of the held-out ones."""
        self._repeating = self._measures = False
        self._counts = True
        super().__init__(*args, **kwargs)

    # --- batches -----------------------------------------------------------------------------------------------------

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """As its parent, but a process that has no last batch repeats a whole one, and none is filled up. Of the rows
        of a step each process has about as many tokens."""
        loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)  # type: ignore[misc]
        shard = getattr(loader, "batch_sampler", None)
        self._repeats[is_training] = False
        dealt = isinstance(shard, BatchSamplerShard) and not shard.split_batches
        if is_training and self.rows_stand_alone and dealt:
            balance(shard, loader.dataset)
        if isinstance(shard, BatchSamplerShard) and shard.even_batches and not (shard.split_batches or shard.drop_last):
            shard.batch_size = None  # batches of no common size are given as they are
            left = len(shard.batch_sampler) % shard.num_processes
            self._repeats[is_training] = 0 < left <= shard.process_index
        return loader

    def _is_repeated(self, is_training: bool) -> bool:
        """Whether the batch that was read last is one that is repeated."""
        return bool(self._repeats.get(is_training) and self.accelerator.gradient_state.end_of_dataloader)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """As its parent; also counts the units of the step. A held-out batch is no step."""
        if self._measures:
            return None
        if batch_samples and self._is_repeated(is_training=True):
            batch_samples[-1][REPEATED] = True
            if "labels" in batch_samples[-1]:
                batch_samples[-1]["labels"] = torch.full_like(batch_samples[-1]["labels"], IGNORED)
        found = super()._get_num_items_in_batch(batch_samples, device)
        self._batches = len(batch_samples)
        own: dict[str, float] = defaultdict(float)
        for batch in batch_samples:
            for name, number in self._numbers(batch).items():
                own[name] += number
        if own and self.args.world_size > 1:
            sums = torch.tensor([list(own.values())], dtype=torch.float64, device=device)
            own = dict(zip(own, (self.accelerator.gather(sums).sum(0) / self._copies()).tolist(), strict=True))
        self._in_step = dict(own)
        return found

    def _numbers(self, inputs: Any) -> dict[str, float]:
        """The numbers of units in a batch; 0 in one that is repeated."""
        units = self.units(inputs)
        return dict.fromkeys(units, 0.0) if self._repeating or REPEATED in inputs else as_numbers(units)

    def _copies(self) -> int:
        """How many processes compute the same rows."""
        return int(self.get_tp_size() * self.get_cp_size() * self.get_sp_size())

    # --- losses ------------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As its parent, as the batch's part of the mean over the step; its values are kept with their numbers."""
        is_training = self.model.training
        self._in_batch = self._numbers(inputs)
        self._in_step |= as_numbers(self.units_of_step(inputs))
        self._counts = not inputs.pop(REPEATED, self._repeating)
        tokens = getattr(self, "_total_train_tokens", 0)
        with self._alone():
            found = super().compute_loss(model, inputs, *args, **kwargs)
        self._keep("train" if is_training else "eval", tokens)
        if self.divides_its_loss or (is_training and self.is_part(kwargs.get("num_items_in_batch"))):
            return found
        loss = self.part(found[0] if isinstance(found, tuple) else found, self.loss_unit)
        return (loss, *found[1:]) if isinstance(found, tuple) else loss

    def part(self, mean: Any, unit: str) -> Any:
        """In training, what the mean over this batch adds to that over the step, so that the sum over its batches and
        the mean over processes, which the trainer takes, give it. Else the mean itself, which is kept."""
        number = self._in_batch[unit]
        if not self.model.training:
            self._held_out.add(unit, float(torch.as_tensor(mean).detach()), number)
            return mean
        if unit not in self._in_step or self.get_sp_size() > 1:  # outside of a step, or by the processes of a sequence
            return mean
        passes = self._batches * self.args.world_size // self._copies()
        share = number * passes / self._in_step[unit] if number else 0.0
        return mean if share == 1 else mean * share

    def keep_rows(self, name: str, values: Tensor) -> None:
        """As its parent, unless the batch is repeated."""
        if self._counts:
            self._held_rows[name].append(values.detach().float().cpu())

    def _rows_together(self) -> dict[str, Tensor]:
        """The kept values of all processes' held-out rows; each has to call this."""
        own = {name: torch.cat(values) for name, values in self._held_rows.items()}
        self._held_rows.clear()
        parts: list[Any] = [own] * self.args.world_size
        if self.args.world_size > 1:
            distributed.all_gather_object(parts, own)
        return {name: torch.cat([part[name] for part in parts if name in part]) for part in parts for name in part}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let the trainer see the values of this process only: those of all are added up when they are logged."""
        own: Any = vars(self.accelerator)
        before = dict(own)
        own |= dict.fromkeys(_GATHERS, _as_it_is)
        try:
            yield
        finally:
            for name in _GATHERS:
                del own[name]
            own |= {name: before[name] for name in _GATHERS if name in before}

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As its parent; keeps the loss of the step."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        # The losses of a step's batches sum up to its mean, in the mean of all processes.
        number = self._in_step[self.loss_unit] * self.mean_weight() / self.args.world_size
        held = self._noted["train"].means.setdefault(_LOSS, [0.0, 0.0])
        held[0] += float(loss) * number
        held[1] += number if self.accelerator.sync_gradients else 0.0
        return loss

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """As its parent; a batch that is repeated has none."""
        if REPEATED in inputs:
            inputs = {name: value[:0] if isinstance(value, Tensor) else value for name, value in inputs.items()}
        super()._track_num_input_tokens(inputs)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As its parent, of this process alone."""
        with self._alone(), self._held_out_batch():
            return super().prediction_step(model, inputs, *args, **kwargs)

    @contextmanager
    def _held_out_batch(self) -> Iterator[None]:
        """Leave out the loss of the router, and a batch that is repeated."""
        enabled = getattr(self, "aux_loss_enabled", False)
        self._repeating, self._measures = self._is_repeated(is_training=False), True
        self.aux_loss_enabled = False
        try:
            yield
        finally:
            self._repeating = self._measures = False
            self.aux_loss_enabled = enabled

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As its parent, with the loss as the mean over all held-out rows of all processes."""
        if self.needs_first_look():
            self._held_out, self.looks_first = Sums(), True
            try:
                super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            finally:
                self.looks_first = False
            self.take_first_look(self._held_out.together(self.args.world_size).values().get(self.loss_unit, 0.0))
        self._held_out = Sums()
        self._held_rows.clear()
        self._noted.pop("eval", None)
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        terms = self._held_out.together(self.args.world_size)
        kept = self._rows_together()
        if terms.means:
            found.metrics[f"{metric_key_prefix}_loss"] = sum(terms.values().values()) + self.loss_of_rows(kept)
            found.metrics[f"{metric_key_prefix}_loss_over"] = round(terms.means[self.loss_unit][1] / self._copies(), 6)
        return found

    # --- logs --------------------------------------------------------------------------------------------------------

    def _keep(self, mode: str, tokens_before: int) -> None:
        """Take what the trainer has recorded of this batch, with the numbers that it is a mean over."""
        kept = self._noted[mode]
        recorded = self._metrics[mode]
        if recorded.pop(_TOKENS, None) and mode == "train" and hasattr(self, "_total_train_tokens"):
            counted = self._total_train_tokens - tokens_before
            kept.add(_TOKENS, counted if self.tokens_in_blocks is None else self.tokens_in_blocks, self._counts)
            self._total_train_tokens = tokens_before
        for name, values in recorded.items():
            unit = self.metric_units.get(name, self.loss_unit)
            for value in values:
                if isinstance(unit, str):
                    kept.add(name, value, self._in_batch.get(unit, 1.0))
                elif self._in_batch.get(unit[1], 1.0):
                    kept.stretch(name, unit[0], value)
        recorded.clear()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As its parent, with the means over all that was computed since the last time."""
        mode = "train" if self.model.training else "eval"
        self._keep(mode, getattr(self, "_total_train_tokens", 0))  # what was recorded after the loss was computed
        if mode in self._noted:
            self._report(mode, logs, self._noted.pop(mode).together(self.args.world_size))
        super().log(logs, *args, **kwargs)

    def _report(self, mode: str, logs: dict[str, float], sums: Sums) -> None:
        loss, tokens = (sums.means.pop(name, None) for name in (_LOSS, _TOKENS))
        if loss and loss[1] and "loss" in logs:
            logs["loss"] = loss[0] / loss[1]
            logs["loss_over"] = round(loss[1], 6)
        if hasattr(self, "_total_train_tokens"):
            self._total_train_tokens += int(tokens[0]) if tokens else 0
        self._metrics[mode][_TOKENS] = [getattr(self, "_total_train_tokens", self.state.num_input_tokens_seen)]
        for name, value in self.completed(sums.values()).items():
            self._metrics[mode][name] = [value]

    def pending(self) -> Any:
        """What is kept for the next log line, for a checkpoint."""
        return {mode: (sums.means, sums.ends) for mode, sums in self._noted.items()}

    def take_pending(self, kept: Any) -> None:
        """Go on with what a checkpoint has kept."""
        for mode, (means, ends) in (kept or {}).items():
            self._noted[mode].means, self._noted[mode].ends = means, ends
