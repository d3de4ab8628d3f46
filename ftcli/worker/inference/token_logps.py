"""Log-probabilities of given tokens, without the logits of a whole batch in memory.

A batch of long answers under a vocabulary of 150,000 has gigabytes of logits, which training, whose output head is
fused with its loss, never holds. Here the layers run once, and the model's own head a few hundred tokens at a time:
whatever it does to the logits (scales, caps, further layers) is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from trl.trainer.utils import selective_log_softmax

HEAD_TOKENS = 512
"""Tokens whose logits are in memory together: 0.3 GiB in float32 under a vocabulary of 150,000."""


def token_logps(model: Any, inputs: Tensor, mask: Tensor, first: int) -> Tensor:
    """The log-probability in nats of each token from place `first` (at least 1) on, of shape (B, L − first), float32.

    Args:
        inputs: token ids, (B, L), padded on the right. mask: 1 for tokens, 0 for padding, (B, L).
    """
    model = getattr(model, "_orig_mod", model)  # a compiled model is run as it was written
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    more: dict[str, Any] = {"use_cache": False}
    if getattr(causal.config.get_text_config(), "output_router_logits", False):
        more["output_router_logits"] = False  # its loss would compare a few tokens with the routers of all
    length = inputs.size(1)
    if getattr(causal, "base_model", causal) is not causal:
        with _layers_once(causal.base_model) as layers:
            last = model(input_ids=inputs, attention_mask=mask, **more).logits
            if layers.runs == 1 and last.size(1) == 1:
                found = []
                width = max(1, HEAD_TOKENS // inputs.size(0))
                for begin in range(first - 1, length - 1, width):
                    end = min(begin + width, length - 1)
                    # Prompt learning puts vectors of its own before the tokens; those are the last ones.
                    layers.show(begin - length, end - length)
                    logits = causal(input_ids=inputs[:, begin:end], attention_mask=mask[:, begin:end], **more).logits
                    found.append(selective_log_softmax(logits, inputs[:, begin + 1 : end + 1]).float())
                return torch.cat(found, dim=1) if found else last.new_zeros((inputs.size(0), 0), dtype=torch.float32)
    # A model of its own build, whose head cannot be run apart.
    logits = model(input_ids=inputs, attention_mask=mask, **more).logits[:, -length:]
    found_whole: Tensor = selective_log_softmax(logits[:, first - 1 : -1], inputs[:, first:]).float()
    return found_whole


class _Layers:
    """The layers of a causal LM, which run at the first call and then show a part of what they found."""

    def __init__(self, forward: Any) -> None:
        self._forward, self._found = forward, cast(Any, None)
        self.runs = 0
        self.show(-1, None)

    def show(self, begin: int, end: int | None) -> None:
        """Show the states of these places at the next call."""
        self._places = slice(begin, end)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._found is None:
            self.runs += 1
            self._found = self._forward(*args, **kwargs)
        if getattr(self._found, "last_hidden_state", None) is None:
            return self._found
        return type(self._found)(last_hidden_state=self._found.last_hidden_state[:, self._places])


@contextmanager
def _layers_once(module: Any) -> Iterator[_Layers]:
    """Replace the forward of a causal LM's layers temporarily."""
    own = vars(module).get("forward")  # hooks of libraries put theirs there
    layers = _Layers(module.forward)
    module.forward = layers
    try:
        yield layers
    finally:
        del module.forward
        if own is not None:
            module.forward = own
