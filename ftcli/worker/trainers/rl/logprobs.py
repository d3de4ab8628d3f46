"""Log-probabilities, entropies and values of sampled answers, per token, from policy, reference and critic.

Each answer follows its prompt. If the architecture keeps documents apart, all answers form one long row without
padding, or several share a row with little padding; otherwise they are padded on the right. The output head is TRL's
fused one: it only scores the answers' tokens and never materialises the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head, use_adapter

from ftcli.models.packing_support import PACKS_EXACTLY, UNPADS_EXACTLY
from ftcli.worker.distributed import sharded
from ftcli.worker.tokenise.collate import MASKED
from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers import unpadded
from ftcli.worker.trainers.rl.critic import at
from ftcli.worker.tuners.residual import REFERENCE


class Layout(Enum):
    """How prompts with their answers are laid out in rows."""

    ALONE = "one row each, padded on the right: correct for every network"
    SHARED = "several per row, kept apart by positions: for kernels with a mask"
    ONE_ROW = "all in one row, kept apart by positions: for flash attention"
    UNPADDED = "all in one row, separated inside the attention: for torch's own kernel"


class Batch(NamedTuple):
    """B prompts with their answers, in R rows of L tokens; the longest answer has T tokens."""

    input_ids: Tensor
    """(R, L)"""
    told_apart: dict[str, Any]
    """The arguments that keep answers apart: `attention_mask` or `position_ids`, (R, L), and more for UNPADDED."""
    states: Tensor
    """(B, T): for each answer token, the position before it among the R·L, whose hidden state predicts it."""
    mask: Tensor
    """(B, T): 1 where an answer has a token, 0 after its end."""
    labels: dict[str, Tensor]
    """The answers' tokens, (R, L), IGNORED elsewhere: as `labels` at their own positions, or as `shift_labels` one
    position earlier."""


def batch_of(
    pairs: Sequence[tuple[Any, Any]], pad_token_id: int, device: torch.device, layout: Layout = Layout.ALONE
) -> Batch:
    """A batch of prompts with their answers, given as lists or tensors of token ids."""
    # An answer's last token predicts nothing, so UNPADDED leaves it out. The other layouts keep it: prompt learning
    # needs it there, and `labels` are aligned with the input.
    spared = int(layout is Layout.UNPADDED)
    lengths = [len(prompt) + len(answer) - spared for prompt, answer in pairs]
    if layout is Layout.ALONE:
        rows = [[i] for i in range(len(pairs))]
    elif layout is Layout.SHARED:
        rows = filled(lengths, 2 * max(lengths))
    else:
        rows = [list(range(len(pairs)))]
    width = max(sum(lengths[i] for i in row) for row in rows)
    ids, labels, positions = (torch.full((len(rows), width), value) for value in (pad_token_id, IGNORED, 0))
    read = torch.zeros((len(rows), width), dtype=torch.long)
    states = torch.zeros((len(pairs), max(len(answer) for _, answer in pairs)), dtype=torch.long)
    mask = torch.zeros(states.shape)
    for number, row in enumerate(rows):
        start = 0
        for i in row:
            prompt, answer = (torch.as_tensor(part) for part in pairs[i])
            begin, end = start + len(prompt), start + lengths[i]
            ids[number, start:end] = torch.cat([prompt, answer])[: lengths[i]]
            labels[number, begin - spared : end] = answer
            positions[number, start:end] = torch.arange(lengths[i])
            read[number, start:end] = 1
            states[i, : len(answer)] = number * width + begin - 1 + torch.arange(len(answer))
            mask[i, : len(answer)] = 1.0
            start = end
    ids, read, positions, states, mask, labels = (
        each.to(device) for each in (ids, read, positions, states, mask, labels)
    )
    told_apart: dict[str, Any] = {"position_ids": positions}
    if layout is Layout.ALONE:
        told_apart = {"attention_mask": read}
    elif layout is Layout.UNPADDED:
        told_apart = unpadded.called_with(unpadded.Rows.of(lengths, device), positions)
    return Batch(ids, told_apart, states, mask, {"shift_labels" if spared else "labels": labels})


def filled(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices in rows of about `capacity` tokens, as equal as possible: longest first, each into the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(max(1, min(len(lengths), round(sum(lengths) / capacity))))]
    full = [0] * len(rows)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = full.index(min(full))
        rows[emptiest].append(i)
        full[emptiest] += lengths[i]
    return rows


def layout_of(networks: Sequence[Any], adapters: Mapping[str, Any] | None) -> Layout:
    """The layout with the least padding in which no architecture or adapter lets answers see each other."""
    if any(config.is_prompt_learning for config in (adapters or {}).values()):
        return Layout.ALONE
    configs = [network.config.get_text_config() for network in networks]
    if any(config.model_type not in PACKS_EXACTLY for config in configs):
        return Layout.ALONE
    kernels = {str(config._attn_implementation) for config in configs}
    if kernels == {"sdpa"} and all(config.model_type in UNPADS_EXACTLY for config in configs):
        return Layout.UNPADDED
    return Layout.SHARED if kernels <= set(MASKED) else Layout.ONE_ROW


class Models:
    """Policy, reference and critic of a trainer."""

    def __init__(self, trainer: Any, critic: Any, ref_model: Any) -> None:
        """
        Args:
            trainer: has a model, an accelerator, and a temperature among its arguments.
            critic: a ValueHead or a ValueNetwork.
            ref_model: a frozen copy of the policy; None means the policy with its adapter disabled.
        """
        model, accelerator = trainer.model, trainer.accelerator
        causal = model.get_base_model() if hasattr(model, "peft_config") else model
        temperature = trainer.args.temperature
        self.accelerator, self.plain = accelerator, model
        self._hidden: Tensor | None = None
        if critic.reads_policy:
            # The fused head does not return hidden states, so a hook keeps those of the policy's forward for the
            # critic.
            causal.base_model.register_forward_hook(self._keep_hidden)
        add_fused_lm_head(causal, temperature=temperature, outputs=("log_probs", "entropy"))
        networks = [causal] if critic.reads_policy else [causal, critic.network]
        networks += [ref_model] if ref_model is not None else []
        self.layout = layout_of(networks, getattr(model, "peft_config", None))
        if ref_model is not None:
            add_fused_lm_head(ref_model, temperature=temperature)
            ref_model.requires_grad_(False)
        if ref_model is not None:
            ref_model = sharded.prepared_reference(trainer, ref_model)
        self.ref_model = ref_model
        self.critic = sharded.prepared(trainer, critic.to(accelerator.device))

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state

    def policy(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of the answers' tokens, each (B, T) and 0 after an answer's end.

        Args:
            model: the policy as wrapped by the Trainer.
        """
        log_probs, entropy = self._fused(model, batch)
        hidden, self._hidden = self._hidden, None
        with self.accelerator.autocast():
            if hidden is None:
                values = self.critic(batch.input_ids, batch.states, batch.told_apart)
            else:
                values = self.critic(at(hidden[:, -batch.input_ids.size(1) :], batch.states))
        return log_probs, entropy, values * batch.mask

    def reference(self, batch: Batch) -> Tensor:
        """Log-probabilities under the reference, the run's starting model, (B, T)."""
        if self.ref_model is not None:
            return self._fused(self.ref_model, batch)[0]
        adapters = getattr(self.plain, "peft_config", None)
        with use_adapter(self.plain, REFERENCE if REFERENCE in adapters else None) if adapters else nullcontext():
            found = self._fused(self.plain, batch)[0]
        self._hidden = None
        return found

    def _fused(self, model: Any, batch: Batch) -> tuple[Tensor, Any]:
        with self.accelerator.autocast():
            found = model(input_ids=batch.input_ids, fused_lm_head=True, **batch.labels, **batch.told_apart)
        width, places = batch.input_ids.size(1), batch.states
        if "labels" in batch.labels:
            # The head returns L − 1 predictions per row, as a row's last token predicts none: shift the flat positions.
            places, width = batch.states - batch.states // width, width - 1
        # Prompt learning puts virtual tokens first; the row's own tokens are the last ones.
        log_probs = at(found.log_probs[:, -width:], places) * batch.mask
        if found.entropy is None:
            return log_probs, None
        return log_probs, at(found.entropy[:, -width:], places) * batch.mask


def prefix_scores(reward_model: Any, batch: Batch) -> Tensor:
    """A reward model's score of an answer up to each of its tokens, of shape (B, T).

    Args:
        batch: with one row per answer (Layout.ALONE), which works for every architecture.
    """
    network = reward_model.get_base_model() if hasattr(reward_model, "peft_config") else reward_model
    hidden = network.base_model(input_ids=batch.input_ids, **batch.told_apart).last_hidden_state
    found: Tensor = network.score(at(hidden, batch.states + 1)).squeeze(-1)
    return found.float()
