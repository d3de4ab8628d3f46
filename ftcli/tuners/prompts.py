"""Prompt tuning that starts from words needs the run's own tokenizer, which PEFT would load by name."""

from __future__ import annotations

from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.tuners.support import Support


class TextPrompt(Support):
    """Names the tokenizer that the model was loaded with."""

    def config_values(self, values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """As Support."""
        if values.get("prompt_tuning_init", "RANDOM") == "RANDOM":
            return values
        return {**values, "tokenizer_name_or_path": tokenizer.name_or_path}
