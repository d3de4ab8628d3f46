"""Where answers end: a model that generates stops at the end tokens that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import GENERATION_FILE, best_device, load_trained
from ftcli.worker.tokenise.encoder import Encoder
from ftcli.worker.tokenise.special_tokens import end_ids


def answering(settings: ModelSettings, encoder: Encoder) -> Any:
    """A model on the best device of this machine, in evaluation mode, that ends its answers as `ending_as` says."""
    device = best_device()
    return ending_as(load_trained(settings, seed=0, device=device).to(device).eval(), encoder)


def ending_as(model: Any, encoder: Encoder) -> Any:
    """The model, with its generation config ending an answer where the encoder says that answers end."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        own = end_ids(config)
        if missing := sorted(encoder.stop_ids - set(own)):
            ends = [*own, *missing]
            config.eos_token_id = ends if len(ends) > 1 else ends[0]
    return model


def save_ends(model: Any, folder: Path) -> None:
    """Write the generation config of a model beside what was saved of it, if there is none: PEFT saves an adapter's
    weights only, and whoever loads the adapter must know where its answers end."""
    config = getattr(model, "generation_config", None)
    if config is not None and not (folder / GENERATION_FILE).is_file():
        config.save_pretrained(folder)
