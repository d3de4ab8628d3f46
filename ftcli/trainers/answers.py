"""What policy, reference and critic make of sampled answers, token by token.

Answers stand behind their prompts and are padded on the right, so positions need no care and nothing is wasted on a
short prompt. The output head is TRL's fused one: only the answers' tokens are scored, and no tensor of logits is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head, pad, use_adapter

from ftcli.trainers.critic import at
from ftcli.trainers.fused import small_tiles
from ftcli.tuners.residual import REFERENCE
from ftcli.worker.tokens import IGNORED


class Batch(NamedTuple):
    """Answers behind their prompts, padded on the right."""

    input_ids: Tensor
    """(B, L)"""
    attention_mask: Tensor
    """(B, L)"""
    states: Tensor
    """(B, T): the position before each answer token, whose hidden state foretells it."""
    mask: Tensor
    """(B, T): 1 where an answer has a token."""
    labels: Tensor
    """(B, L): the answers' tokens, IGNORED elsewhere."""


def batch_of(pairs: Sequence[tuple[Any, Any]], pad_token_id: int, device: torch.device) -> Batch:
    """Prompts with their answers, as lists or tensors of token ids."""
    prompts = [torch.as_tensor(prompt) for prompt, _ in pairs]
    answers = [torch.as_tensor(answer) for _, answer in pairs]
    both = list(zip(prompts, answers, strict=True))
    whole = [torch.cat(each) for each in both]
    labels = [torch.cat([torch.full_like(prompt, IGNORED), answer]) for prompt, answer in both]
    states = [len(prompt) - 1 + torch.arange(len(answer)) for prompt, answer in both]
    found = Batch(
        pad(whole, padding_value=pad_token_id),
        pad([torch.ones_like(ids) for ids in whole], padding_value=0),
        pad(states, padding_value=0),
        pad([torch.ones(len(answer)) for answer in answers], padding_value=0.0),
        pad(labels, padding_value=IGNORED),
    )
    return Batch(*(tensor.to(device) for tensor in found))


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
                values = self.critic(batch.input_ids, batch.attention_mask, batch.states)
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
            found = model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, fused_lm_head=True
            )
        # Virtual tokens of prompt learning come first; those of the row are the last.
        width = batch.input_ids.size(1) - 1
        log_probs = torch.gather(found.log_probs[:, -width:], 1, batch.states) * batch.mask
        if found.entropy is None:
            return log_probs, None
        return log_probs, torch.gather(found.entropy[:, -width:], 1, batch.states) * batch.mask


def prefix_scores(judge: Any, batch: Batch) -> Tensor:
    """A reward model's score of an answer up to each of its tokens, of shape (B, T)."""
    network = judge.get_base_model() if hasattr(judge, "peft_config") else judge
    hidden = network.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    found: Tensor = network.score(at(hidden, batch.states + 1)).squeeze(-1)
    return found.float()
