"""The value model of PPO: what the rest of an answer will be worth, told before each of its tokens.

A head on the policy's own hidden states costs nothing in memory; a network of its own, begun as the reward model, is
what Stiennon et al. 2020 (arXiv:2009.01325, section 3.4) found better: the policy is not pulled by the value's loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A value read off the policy's last hidden states. It begins at zero, so that it starts from what it learns."""

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
    """A model with a score for a head, whose score at each state is the value."""

    reads_policy = False

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, states: Tensor, told_apart: Mapping[str, Any]) -> Tensor:
        """Values of shape (B, T), in float32.

        Args:
            input_ids: of shape (R, L).
            states: places of shape (B, T), among the R·L, whose value is asked.
            told_apart: what the network is called with beside them.
        """
        # With a cache transformers would not look for documents in the positions.
        hidden = self.network.base_model(input_ids=input_ids, use_cache=False, **told_apart).last_hidden_state
        found: Tensor = self.network.score(at(hidden, states)).squeeze(-1)
        return found.float()


def at(hidden: Tensor, states: Tensor) -> Tensor:
    """What stands at places (B, T) of R rows of L places, (R, L, …): of shape (B, T, …)."""
    flat = hidden.flatten(0, 1)
    return torch.index_select(flat, 0, states.flatten()).view(*states.shape, *flat.shape[1:])
