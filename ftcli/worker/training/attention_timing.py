"""How long the layers of a run take with an attention kernel: forward and backward, on the rows and device of the run.

A copy of the model with few layers is timed, before the weights are loaded: as wide as the model, with as many layers
as show each kind of attention, and random frozen weights. What is done once for all layers (a mask, above all) is told
apart from what each does, so that the time of the whole model follows.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from trl.trainer.utils import pad

from ftcli.models.sources import foundation, resolved_source
from ftcli.settings.groups import ModelSettings
from ftcli.worker.distributed.sharded import whole_weights
from ftcli.worker.models.stored_weights import unquantised
from ftcli.worker.models.text_models import causal_config
from ftcli.worker.tokenise.collate import collator_of
from ftcli.worker.trainers.unpadded import Rows, called_with
from ftcli.worker.trainers.without_padding import can_be_left_out

VOCABULARY = 64
"""Tokens of the copy, whose embedding is not what is timed."""
_TOKEN = 7
_WARM_UP = 2
_LEAST, _MOST = 3, 20
"""Passes that are timed, after those in which kernels are compiled and caches filled."""
_SECONDS = 0.5
"""After this long, no further pass is timed."""
_ANSWERS = ("chosen_ids", "rejected_ids")

Documents = list[int]
"""The lengths of the documents of one row."""


@dataclass(frozen=True)
class Passes:
    """What a forward and a backward pass of all layers take."""

    seconds: float
    extra_bytes: int | None = None
    """GPU memory beyond the weights; None on a CPU."""


def longest_rows(data: Dataset, number: int) -> list[Documents]:
    """The longest rows of a dataset as they go through the model together; of a pair, both of its sides."""
    names = [name for name in ("input_ids", "prompt_ids", *_ANSWERS, "seq_lengths") if name in data.column_names]
    table = data.select_columns(names).with_format("arrow")[:]
    lengths = {
        name: pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy() for name in names if name != "seq_lengths"
    }
    if "input_ids" in lengths:
        order = np.argsort(-lengths["input_ids"], kind="stable")[:number]
        documents = table["seq_lengths"].take(order).to_pylist() if "seq_lengths" in names else [None] * len(order)
        return [own or [int(lengths["input_ids"][row])] for row, own in zip(order, documents, strict=True)]
    answers = np.stack([lengths[name] for name in _ANSWERS if name in lengths])
    order = np.argsort(-(lengths["prompt_ids"] + answers.max(axis=0)), kind="stable")[:number]
    sides = [(side, row) for side in answers for row in order if side[row]]  # a row without a pair has one side
    return [[int(lengths["prompt_ids"][row] + side[row])] for side, row in sides]


def model_config(settings: ModelSettings) -> PreTrainedConfig:
    """The configuration of a run's causal LM; loads no weights.

    Raises:
        OSError: it cannot be read.
        ValueError: transformers has no causal LM for it.
    """
    source = foundation(resolved_source(settings.name_or_path))
    assert source is not None
    where = {"revision": settings.revision} if source.hub_id and settings.revision else {}
    return causal_config(AutoConfig.from_pretrained(source.location, **where))


def few_layers(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with the first layers alone, as many as show each kind, and with a small vocabulary."""
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"])
    number = next(n for n in range(1, len(kinds) + 1) if set(kinds[:n]) == set(kinds))
    few = copy.deepcopy(unquantised(config))
    few.num_hidden_layers, few.vocab_size, few.pad_token_id = number, VOCABULARY, None
    if getattr(few, "layer_types", None):
        few.layer_types = kinds[:number]
    return few


class LayerTimer:
    """Times kernels on the layers of one model."""

    def __init__(self, config: PreTrainedConfig, rows: Sequence[Documents], training: Any, dtype: torch.dtype) -> None:
        """
        Args:
            config: of the model.
            rows: what goes through it together.
            training: the trainer's config.
            dtype: what the model computes in.
        """
        self._few = few_layers(config)
        self._rows, self._training, self._dtype = rows, training, dtype
        self._device: torch.device = training.device
        self._times: float = config.num_hidden_layers / self._few.num_hidden_layers

    def __call__(self, kernel: str) -> Passes:
        """What the layers take with a kernel.

        Raises:
            Exception: whatever the kernel raises.
        """
        model: Any = None
        try:
            model = self._model(kernel)
            batch = self._batch(model)
            before = _allocated(self._device)
            for _ in range(_WARM_UP):
                self._pass(model, batch)
            spent: list[float] = []
            until = time.monotonic() + _SECONDS
            while len(spent) < _LEAST or (len(spent) < _MOST and time.monotonic() < until):
                spent.append(self._pass(model, batch))
            peak = torch.cuda.max_memory_allocated(self._device) if before is not None else 0
            return Passes(median(spent), None if before is None else self._of_all(peak - before))
        finally:
            del model
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self._device)

    def _of_all(self, extra: int) -> int:
        """What the layers of the whole model hold, where none computes its inside again."""
        return extra if self._training.gradient_checkpointing else int(extra * self._times)

    def _model(self, kernel: str) -> Any:
        with whole_weights(), torch.device(self._device):
            model = AutoModel.from_config(
                copy.deepcopy(self._few), dtype=self._dtype, attn_implementation=kernel
            ).requires_grad_(False)
        if model.config._attn_implementation != kernel:  # its configuration may name another one
            raise ValueError(f"the model computes with {model.config._attn_implementation}")
        model.enable_input_require_grads()
        if self._training.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable(self._training.gradient_checkpointing_kwargs)
        return model.train()

    def _batch(self, model: Any) -> Mapping[str, Any]:
        """The rows as they are computed in training: each document apart, packed as its kernel needs it, or padded."""
        if can_be_left_out(model.config, self._training):
            lengths = [length for row in self._rows for length in row]
            positions = torch.cat([torch.arange(length) for length in lengths])[None].to(self._device)
            apart = called_with(Rows.of(lengths, self._device), positions)
            return {"input_ids": torch.full_like(positions, _TOKEN), **apart}
        multiple = getattr(self._training, "pad_to_multiple_of", None)
        if getattr(self._training, "packing", False):
            ids = [[_TOKEN] * sum(row) for row in self._rows]
            blocks = [
                {"input_ids": tokens, "labels": tokens, "seq_lengths": row}
                for tokens, row in zip(ids, self._rows, strict=True)
            ]
            found = collator_of(self._training, model, _TOKEN).torch_call(blocks)
            found = {name: value for name, value in found.items() if name not in ("labels", "attention_mask")}
        else:
            tokens = [torch.full((sum(row),), _TOKEN) for row in self._rows]
            how: dict[str, Any] = {"padding_side": "right", "pad_to_multiple_of": multiple}
            mask = pad([torch.ones_like(each) for each in tokens], padding_value=0, **how)
            found = {"input_ids": pad(tokens, padding_value=_TOKEN, **how), "attention_mask": mask}
        return {name: each.to(self._device) if torch.is_tensor(each) else each for name, each in found.items()}

    def _pass(self, model: Any, batch: Mapping[str, Any]) -> float:
        """Seconds of a forward and a backward pass of the whole model, as far as its layers go."""
        marks = [_mark(self._device)]
        with _before_layers(model, self._few.num_hidden_layers, lambda: marks.append(_mark(self._device))):
            out = model(**batch, use_cache=False).last_hidden_state
            out.backward(torch.ones_like(out))
        marks.append(_mark(self._device))
        before, last = marks[1], marks[-1]  # a layer that is computed again in the backward pass marks again
        return _between(marks[0], before) + self._times * _between(before, last)


@contextmanager
def _before_layers(model: Any, number: int, call: Any) -> Iterator[None]:
    layers = next(each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == number)
    handle = layers[0].register_forward_pre_hook(lambda *_: call())
    try:
        yield
    finally:
        handle.remove()


def _allocated(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _mark(device: torch.device) -> Any:
    """A point in time of the device, which computes behind what it was given."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(first: Any, second: Any) -> float:
    """Seconds from one mark to another."""
    if isinstance(second, torch.cuda.Event):
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000
    return float(second) - float(first)
