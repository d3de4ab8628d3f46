"""Several adapters for one base, of which one is worn at a time; the base is loaded once and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ftcli.worker.models.load import with_adapter

NOTHING = "none"
"""The name under which the bare base is asked for."""


class Wardrobe:
    """Puts saved adapters on a base and takes them off again, whatever their kinds."""

    def __init__(self, base: PreTrainedModel, folders: Mapping[str, Path]) -> None:
        self.base, self.folders = base, dict(folders)
        self.worn = NOTHING
        self.model: Any = base

    def wear(self, name: str) -> Any:
        """The base with that adapter on it, or bare under the name `none`.

        Raises:
            KeyError: there is no adapter of that name.
        """
        if name == self.worn:
            return self.model
        folder = None if name == NOTHING else self.folders[name]
        if self.worn != NOTHING:
            # Vectors before the input leave the base as it is; everything else stands in its layers.
            learns_prompts = self.model.active_peft_config.is_prompt_learning
            self.base = self.model.get_base_model() if learns_prompts else self.model.unload()
        self.model = with_adapter(self.base, folder) if folder else self.base
        self.worn = name
        return self.model
