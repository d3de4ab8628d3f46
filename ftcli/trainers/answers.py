"""What policy, reference and critic make of sampled answers, token by token.

Each answer stands behind its prompt, and where the architecture keeps documents apart several of them share a row, so
that next to nothing is padding; else they are padded on the right. The output head is TRL's fused one: it scores the
answers' tokens alone and builds no tensor of logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head, use_adapter

from ftcli.packable import PACKS_EXACTLY
from ftcli.trainers.critic import at
from ftcli.trainers.fused import small_tiles
from ftcli.tuners.residual import REFERENCE
from ftcli.worker.collate import MASKED
from ftcli.worker.tokens import IGNORED


class Batch(NamedTuple):
    """B answers behind their prompts, in R rows of L tokens."""

    input_ids: Tensor
    """(R, L)"""
    attention_mask: Tensor | None
    """(R, L); None where answers share a row and `position_ids` keep them apart."""
    position_ids: Tensor | None
    """(R, L)"""
    states: Tensor
    """(B, T): the place before each answer token, whose hidden state foretells it, among the R·L places."""
    mask: Tensor
    """(B, T): 1 where an answer has a token."""
    labels: Tensor
    """(R, L): the answers' tokens, IGNORED elsewhere."""

    @property
    def told_apart(self) -> dict[str, Tensor | None]:
        """What a model is called with beside the tokens."""
        if self.position_ids is not None:
            return {"position_ids": self.position_ids}
        return {"attention_mask": self.attention_mask}


def batch_of(
    pairs: Sequence[tuple[Any, Any]], pad_token_id: int, device: torch.device, *, row_tokens: int | None = 0
) -> Batch:
    """Prompts with their answers, as lists or tensors of token ids.

    Args:
        row_tokens: answers share rows of about so many tokens, or of twice the longest where that is more; None is one
            row for all; 0 gives each a row of its own.
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    if row_tokens == 0:
        rows = [[i] for i in range(len(pairs))]
    elif row_tokens is None:
        rows = [list(range(len(pairs)))]
    else:
        rows = filled(lengths, max(row_tokens, 2 * max(lengths)))
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
            ids[number, start:begin], ids[number, begin:end] = prompt, answer
            labels[number, begin:end] = answer
            positions[number, start:end] = torch.arange(lengths[i])
            read[number, start:end] = 1
            states[i, : len(answer)] = number * width + begin - 1 + torch.arange(len(answer))
            mask[i, : len(answer)] = 1.0
            start = end
    apart = (read, None) if row_tokens == 0 else (None, positions)
    return Batch(*(each if each is None else each.to(device) for each in (ids, *apart, states, mask, labels)))


def filled(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of about `capacity` tokens and as equal as may be: the longest first, each into the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(max(1, min(len(lengths), round(sum(lengths) / capacity))))]
    full = [0] * len(rows)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = full.index(min(full))
        rows[emptiest].append(i)
        full[emptiest] += lengths[i]
    return rows


def row_tokens_of(networks: Sequence[Any], adapters: Mapping[str, Any] | None) -> int | None:
    """How answers share rows, as `batch_of` takes it: not where an architecture or an adapter would mix them up."""
    if any(config.is_prompt_learning for config in (adapters or {}).values()):
        return 0
    configs = [network.config.get_text_config() for network in networks]
    if any(config.model_type not in PACKS_EXACTLY for config in configs):
        return 0
    return 1 if all(network.config._attn_implementation in MASKED for network in networks) else None


class Models:
    """Policy, reference and critic of a trainer."""

    def __init__(self, trainer: Any, critic: Any, ref_model: Any) -> None:
        """
        Args:
            trainer: with its model and accelerator, and a temperature among its arguments.
            critic: a ValueHead or a ValueNetwork.
            ref_model: a frozen copy of the policy; None is the policy with its adapter off.
        """
        model, accelerator = trainer.model, trainer.accelerator
        causal = model.get_base_model() if hasattr(model, "peft_config") else model
        temperature = trainer.args.temperature
        self.accelerator, self.plain = accelerator, model
        self._hidden: Tensor | None = None
        if critic.reads_policy:
            causal.base_model.register_forward_hook(self._keep_hidden)
        add_fused_lm_head(causal, temperature=temperature, outputs=("log_probs", "entropy"))
        networks = [causal] if critic.reads_policy else [causal, critic.network]
        self.row_tokens = row_tokens_of(networks, getattr(model, "peft_config", None))
        self.ref_model = ref_model
        if ref_model is not None:
            add_fused_lm_head(ref_model, temperature=temperature)
            self.ref_model = accelerator.prepare_model(ref_model.requires_grad_(False), evaluation_mode=True)
        self.critic = accelerator.prepare_model(critic.to(accelerator.device))

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state

    def policy(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of the answers' tokens, each (B, T) and 0 behind an answer.

        Args:
            model: the policy as the Trainer wrapped it.
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
        """Log-probabilities under the model as the run found it, (B, T)."""
        if self.ref_model is not None:
            return self._fused(self.ref_model, batch)[0]
        adapters = getattr(self.plain, "peft_config", None)
        with use_adapter(self.plain, REFERENCE if REFERENCE in adapters else None) if adapters else nullcontext():
            found = self._fused(self.plain, batch)[0]
        self._hidden = None
        return found

    def _fused(self, model: Any, batch: Batch) -> tuple[Tensor, Any]:
        with small_tiles(batch.input_ids.device), self.accelerator.autocast():
            found = model(input_ids=batch.input_ids, labels=batch.labels, fused_lm_head=True, **batch.told_apart)
        # Virtual tokens of prompt learning come first; those of the row are the last, of which the last foretells none.
        width = batch.input_ids.size(1)
        places = batch.states - batch.states // width
        log_probs = at(found.log_probs[:, 1 - width :], places) * batch.mask
        if found.entropy is None:
            return log_probs, None
        return log_probs, at(found.entropy[:, 1 - width :], places) * batch.mask


def prefix_scores(judge: Any, batch: Batch) -> Tensor:
    """A reward model's score of an answer up to each of its tokens, of shape (B, T).

    Args:
        batch: with a row for each answer, which every architecture takes.
    """
    network = judge.get_base_model() if hasattr(judge, "peft_config") else judge
    hidden = network.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    found: Tensor = network.score(at(hidden, batch.states + 1)).squeeze(-1)
    return found.float()
