"""What learned prompts need during a run: the tokenizer for an initial text, and saves without dropout.

Prompt tuning that starts from a text would have PEFT load a tokenizer by name. P-tuning is saved as the vectors that
its encoder computes, and PEFT computes them in the encoder's current mode: in the middle of training with dropout, so
that the file holds one random draw, and training continues with other random numbers than without the save.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.worker.tuners.support import Support


class TextPrompt(Support):
    """Passes on the tokenizer that the model was loaded with."""

    def config_values(self, values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """As Support."""
        if values.get("prompt_tuning_init", "RANDOM") == "RANDOM":
            return values
        return {**values, "tokenizer_name_or_path": tokenizer.name_or_path}


class PromptEncoder(Support):
    """Makes the P-tuning encoder compute what is saved without dropout, so that no random number is drawn."""

    def trainer_made(self, trainer: Any) -> None:
        """As Support."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        computed = model.get_prompt_embedding_to_save

        def settled(adapter_name: str) -> Tensor:
            encoder = model.prompt_encoder[adapter_name]
            training = encoder.training
            encoder.eval()
            try:
                found: Tensor = computed(adapter_name)
                return found
            finally:
                encoder.train(training)

        model.get_prompt_embedding_to_save = settled
