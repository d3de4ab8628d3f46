"""What EVA, CorDA and LoRA-GA learn from rows before a run: inputs of the adapted layers, or gradients of weights.

Departs from PEFT's own functions in two things. CorDA's covariance leaves out padding, where PEFT expects one unpadded
row at a time, and a package, attrs, that it does not install. LoRA-GA's gradient is that of the run's method, so also
that of a preference loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from peft import EvaConfig, LoraConfig, LoraGAConfig, get_eva_state_dict, get_peft_model
from peft.tuners.lora.eva import SVDHook
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers import Trainer
from transformers.pytorch_utils import Conv1D

from ftcli.core.errors import ConfigError, Problem
from ftcli.peft_methods.initialisations import NAME
from ftcli.worker.distributed.exact_state import rng_untouched

ADAPTER = "default"
"""PEFT's name for the adapter that trains."""
Start = dict[str, Tensor]
"""The matrices that an adapter starts from, as "MODULE.lora_A" (r, in) and "MODULE.lora_B" (out, r), on the CPU."""
Batches = Sequence[dict[str, Any]]
_FEWEST_BATCHES = 10
"""EVA stops when its directions stay, at the latest when it has seen all rows, or as many batches as this."""


def lora_layers(model: Any, adapter: str = ADAPTER) -> Iterator[tuple[str, LoraLayer]]:
    """The linear layers that carry the adapter, by their name in the base model."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
            yield name, layer


def find(name: str, trainer: Any, model: Any, num_rows: int, options: dict[str, Any]) -> Start:
    """The start that an initialisation finds in the first rows of a run.

    Args:
        name: eva, corda or lora_ga.
        model: the PEFT model with a LoRA that changes nothing yet.
        num_rows: rows to look at, evenly spread over the data; the first ones of a stream.

    Raises:
        ConfigError: the rows have too few tokens, or hold nothing that it could start from.
    """
    finders = {"eva": _eva, "corda": _corda, "lora_ga": _lora_ga}
    with _unchanged(trainer, model), rng_untouched():
        torch.manual_seed(trainer.args.seed)  # the fast decompositions draw the vectors that they start from
        try:
            return finders[name](trainer, model, _rows(trainer, num_rows), options)
        except (ValueError, RuntimeError) as error:  # torch's decompositions raise the second for what is not finite
            first = str(error).strip().splitlines()[0]
            what = f"init_lora_weights={name} finds no start in the training rows: {first}"
            raise ConfigError(Problem(NAME, what, "give it more rows with peft.init_rows, or choose another")) from None


@contextmanager
def _unchanged(trainer: Any, model: Any) -> Iterator[None]:
    """Leave the trainer's sums for its log, the mode of the model and its gradients as they are."""
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in _SUMS if hasattr(trainer, name)}
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)
        for module, training in modes.items():
            module.training = training
        model.zero_grad(set_to_none=True)


_SUMS = ("_metrics", "_total_train_tokens")


def _rows(trainer: Any, num_rows: int) -> list[dict[str, Any]]:
    rows = trainer.train_dataset
    if isinstance(rows, IterableDataset):
        return list(islice(iter(rows), num_rows))
    count = min(num_rows, len(rows))
    return list(rows.select([index * len(rows) // count for index in range(count)]))


def _batches(trainer: Any, rows: list[dict[str, Any]], size: int) -> Batches:
    # Fewer than two rows make no batch for methods that compare rows of one.
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    whole = [piece for piece in pieces if len(piece) == size] or pieces
    return [trainer.data_collator(piece) for piece in whole]


def _pass(trainer: Any, model: Any, batch: dict[str, Any]) -> Tensor:
    """The method's loss of one batch, a scalar."""
    inputs = Trainer._prepare_inputs(trainer, copy.copy(batch))
    with trainer.compute_loss_context_manager():
        loss: Tensor = trainer.compute_loss(model, inputs)
    return loss


def _trained(batch: dict[str, Any]) -> Tensor:
    """Which tokens of a batch are trained, of the shape of its input_ids; where none are marked, all but padding."""
    ids = batch["input_ids"]
    if "labels" in batch and batch["labels"].shape == ids.shape:
        return batch["labels"] != -100
    mask = batch.get("completion_mask")
    return mask.bool() if mask is not None and mask.shape == ids.shape else _present(batch)


def _present(batch: dict[str, Any]) -> Tensor:
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None else torch.ones_like(batch["input_ids"], dtype=torch.bool)


def _chosen_states(states: Any, mask: Tensor) -> Tensor:
    """Inputs of a layer at the chosen tokens, (tokens, width); all of them where the loss shaped the batch anew."""
    states = states[0] if isinstance(states, tuple | list) else states
    mask = mask.to(states.device)
    return states[mask] if mask.shape == states.shape[:-1] else states.flatten(0, -2)


# --- EVA --------------------------------------------------------------------------------------------------------------


def _eva(trainer: Any, model: Any, rows: list[dict[str, Any]], options: dict[str, Any]) -> Start:
    """The main directions of each layer's inputs, by PEFT's incremental decomposition (arXiv:2410.07170, section 3)."""
    eva = EvaConfig(**options)
    mask_of: Callable[[dict[str, Any]], Tensor] = _trained if eva.use_label_mask else _present
    components = max(round(layer.r[ADAPTER] * eva.rho) for _, layer in lora_layers(model))
    size = int(trainer.args.per_device_train_batch_size)
    tokens = sum(int(mask_of(batch).sum()) for batch in _batches(trainer, rows, size)) / len(rows)
    size = min(len(rows), max(size, math.ceil(2 * components / max(tokens, 1e-9))))
    batches = [batch for batch in _batches(trainer, rows, size) if int(mask_of(batch).sum()) >= components]
    if not batches:
        raise ValueError(
            f"its {len(rows)} rows hold {tokens * len(rows):.0f} trained tokens, fewer than the "
            f"{components} directions (r · rho) that it looks for"
        )
    passes = 0

    def forward(_: Any, batch: dict[str, Any]) -> None:
        nonlocal passes
        passes += 1
        if passes > max(len(batches), _FEWEST_BATCHES):
            # PEFT would go on for ever where directions of nearly equal strength keep turning.
            for module in model.modules():
                for hook in module._forward_hooks.values():
                    if isinstance(hook, SVDHook):
                        hook.sim_thresh = -1.0
        _pass(trainer, model, batch)

    config = copy.copy(model.peft_config[ADAPTER])
    config.eva_config = eva
    model.eval()
    found = get_eva_state_dict(
        model,
        batches,
        peft_config=config,
        forward_fn=forward,
        prepare_model_inputs_fn=lambda batch, _: mask_of(batch),
        prepare_layer_inputs_fn=lambda states, mask, _: _chosen_states(states, mask),
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
    return {
        f"{name.removeprefix('base_model.model.')}.lora_A": tensor.detach().float().cpu().contiguous()
        for name, tensor in found.items()
    }


# --- CorDA ------------------------------------------------------------------------------------------------------------


def _corda(trainer: Any, model: Any, rows: list[dict[str, Any]], options: dict[str, Any]) -> Start:
    """Singular vectors of W·C with C the covariance of the inputs (arXiv:2406.05223, section 3.2)."""
    layers = dict(lora_layers(model))
    sums: dict[str, Tensor] = {}
    present = torch.zeros(0)

    def adding(name: str) -> Callable[[Any, Any], None]:
        def add(_: nn.Module, given: tuple[Any, ...]) -> None:
            states = _chosen_states(given, present).float()
            states = states / states.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            sums[name] = sums.get(name, 0) + states.T @ states

        return add

    hooks = [layer.get_base_layer().register_forward_pre_hook(adding(name)) for name, layer in layers.items()]
    batches = _batches(trainer, rows, int(trainer.args.per_device_train_batch_size))
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                present = _present(batch)
                _pass(trainer, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return _decomposed(model, {name: total / len(batches) for name, total in sums.items()}, options)


def _decomposed(model: Any, covariances: dict[str, Tensor], options: dict[str, Any]) -> Start:
    found = Start()
    for name, layer in lora_layers(model):
        if name not in covariances:  # a layer that the rows never reach keeps its plain start
            continue
        linear, rank = layer.get_base_layer(), layer.r[ADAPTER]
        weight = linear.weight.detach().float()
        first, second = _oriented(weight.T if isinstance(linear, Conv1D) else weight, covariances.pop(name))
        # The paper's two modes: the largest directions of the task, or the smallest, which what is kept needs least.
        part = slice(-rank, None) if options.get("corda_method") == "kpm" else slice(rank)
        root = math.sqrt(1 / layer.scaling[ADAPTER])
        found[f"{name}.lora_A"] = (first[part] * root).cpu().contiguous()
        found[f"{name}.lora_B"] = (second[:, part] * root).cpu().contiguous()
    return found


def _oriented(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """W = (U√S) (√S Vᵀ C⁻¹) for W·C = U S Vᵀ, as A-like (k, in) and B-like (out, k), the largest singular value first.

    The covariance of few tokens has no inverse: a share of its mean diagonal is added until it has one, from 1% up.
    """
    eye, share = torch.eye(len(covariance), device=covariance.device), 0.01
    while True:
        damped = covariance + eye * covariance.diagonal().mean() * share
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, eye) < 0.05:
            break
        share *= 2
        if not math.isfinite(share):
            raise ValueError("the layers' inputs are all zero or not finite")
    left, values, right = torch.linalg.svd(weight @ damped, full_matrices=False)
    root = values.sqrt()
    return root[:, None] * (right @ inverse), left * root


# --- LoRA-GA ----------------------------------------------------------------------------------------------------------


def _lora_ga(trainer: Any, model: Any, rows: list[dict[str, Any]], options: dict[str, Any]) -> Start:
    """Singular vectors of the weights' gradient, split between A and B by PEFT (arXiv:2407.05000, section 3.2)."""
    weights = {name: layer.get_base_layer().weight for name, layer in lora_layers(model)}
    frozen = {name: weight.requires_grad for name, weight in weights.items()}
    batches = _batches(trainer, rows, int(trainer.args.per_device_train_batch_size))
    model.train()  # gradient checkpointing works in this mode only
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for batch in batches:
            _pass(trainer, model, batch).backward()
        gradients = {name: weight.grad / len(batches) for name, weight in weights.items() if weight.grad is not None}
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(frozen[name])
            weight.grad = None
    found = Start()
    for name, layer in lora_layers(model):
        if name in gradients:
            found |= {f"{name}.{part}": matrix for part, matrix in _split(layer, gradients.pop(name), options).items()}
    return found


def _split(layer: LoraLayer, gradient: Tensor, options: dict[str, Any]) -> Start:
    """PEFT's own matrices for one layer, which it computes while it wraps it and takes out of its weight."""
    linear = layer.get_base_layer()
    weight, holder = linear.weight.data, nn.Module()
    linear._peft_loraga_grad = gradient
    holder.layer = linear
    alone = LoraConfig(
        r=layer.r[ADAPTER],
        lora_alpha=layer.lora_alpha[ADAPTER],
        use_rslora=layer.use_rslora[ADAPTER],
        fan_in_fan_out=isinstance(linear, Conv1D),
        target_modules=["layer"],
        init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(**options),
    )
    try:
        made = get_peft_model(holder, alone).base_model.model.layer
        parts = {"lora_A": made.lora_A[ADAPTER].weight, "lora_B": made.lora_B[ADAPTER].weight}
        return {name: matrix.detach().float().cpu().contiguous() for name, matrix in parts.items()}
    finally:
        linear.weight.data = weight
