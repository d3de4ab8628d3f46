"""The value model of PPO: it predicts, before each token of an answer, the reward of the rest.

A head on the policy's own hidden states needs no extra memory. A separate network, initialised from the reward model,
is what Stiennon et al. 2020 (arXiv:2009.01325, section 3.4) found better: the value loss does not disturb the policy.

Shapes: B answers of at most T tokens, in R rows of L tokens, with hidden size H.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear value head on the policy's last hidden states, initialised to predict 0."""

    reads_policy = True

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values of shape (B, T), in float32, from hidden states of shape (B, T, H)."""
        found: Tensor = self.score(hidden.to(self.score.weight.dtype)).squeeze(-1)
        return found.float()


class ValueNetwork(nn.Module):
    """A reward model whose score at each position is the value."""

    reads_policy = False

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, states: Tensor, told_apart: Mapping[str, Any]) -> Tensor:
        """Values of shape (B, T), in float32.

        Args:
            input_ids: of shape (R, L).
            states: of shape (B, T), the positions among the R·L at which the value is read.
            told_apart: the arguments that keep answers in one row apart (a mask or positions).
        """
        # With a cache transformers would not derive the documents from the positions.
        hidden = self.network.base_model(input_ids=input_ids, use_cache=False, **told_apart).last_hidden_state
        found: Tensor = self.network.score(at(hidden, states)).squeeze(-1)
        return found.float()


def at(hidden: Tensor, states: Tensor) -> Tensor:
    """The entries of (R, L, …) at the flat positions `states`, (B, T), among the R·L: of shape (B, T, …)."""
    flat = hidden.flatten(0, 1)
    return torch.index_select(flat, 0, states.flatten()).view(*states.shape, *flat.shape[1:])
