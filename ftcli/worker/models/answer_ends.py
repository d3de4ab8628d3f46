"""Where answers end: a model that generates stops at the end tokens that it was trained with."""

from __future__ import annotations

from typing import Any

from ftcli.worker.tokenise.encoder import Encoder


def ending_as(model: Any, encoder: Encoder) -> Any:
    """The model, with its generation config ending an answer where the encoder says that answers end."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        own = config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        if missing := sorted(encoder.stop_ids - set(own)):
            ends = [*own, *missing]
            config.eos_token_id = ends if len(ends) > 1 else ends[0]
    return model
