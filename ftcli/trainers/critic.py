"""The value model of PPO: what the rest of an answer will be worth, told before each of its tokens.

A head on the policy's own hidden states costs nothing in memory; a network of its own, begun as the reward model, is
what Stiennon et al. 2020 (arXiv:2009.01325, section 3.4) found better: the policy is not pulled by the value's loss.
"""

from __future__ import annotations

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

    def forward(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> Tensor:
        """Values of shape (B, T), in float32.

        Args:
            input_ids: of shape (B, L), padded on the right.
            attention_mask: of shape (B, L).
            states: positions of shape (B, T) whose value is asked.
        """
        hidden = self.network.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        found: Tensor = self.network.score(at(hidden, states)).squeeze(-1)
        return found.float()


def at(hidden: Tensor, states: Tensor) -> Tensor:
    """Hidden states (B, L, H) at positions (B, T): of shape (B, T, H)."""
    return torch.gather(hidden, 1, states[..., None].expand(-1, -1, hidden.size(-1)))
