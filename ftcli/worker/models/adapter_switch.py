"""Switching adapters: several saved adapters for one base, one active at a time; the base is loaded only once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ftcli.worker.models.load import with_adapter

NOTHING = "none"
"""The name that stands for the base without an adapter."""


class AdapterSwitch:
    """Loads saved adapters of any type on a base, and removes them again.

    One at a time: PEFT can hold several adapters in a model only if they are of one type.
    """

    def __init__(self, base: PreTrainedModel, folders: Mapping[str, Path]) -> None:
        self.base, self.folders = base, dict(folders)
        self.active = NOTHING
        self.model: Any = base

    def switch_to(self, name: str) -> Any:
        """The base with that adapter on it, or without any for the name `none`.

        Raises:
            KeyError: there is no adapter of that name.
        """
        if name == self.active:
            return self.model
        folder = None if name == NOTHING else self.folders[name]
        if self.active != NOTHING:
            # Prompt learning leaves the base unchanged; every other adapter is in its layers and has to be unloaded.
            learns_prompts = self.model.active_peft_config.is_prompt_learning
            self.base = self.model.get_base_model() if learns_prompts else self.model.unload()
        self.model = with_adapter(self.base, folder) if folder else self.base
        self.active = name
        return self.model
