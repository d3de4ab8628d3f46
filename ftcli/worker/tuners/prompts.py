"""What learned prompts need of a run: the tokenizer that their words are read with, and saves without dropout.

Prompt tuning that starts from words would have PEFT load a tokenizer by name. P-tuning is saved as the vectors that its
encoder computes, and PEFT lets it compute them as it stands: in the middle of a training with dropout, so that the file
holds one draw of it, and the training goes on with other random numbers than it would have without the save.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ftcli.worker.tuners.support import Support


class TextPrompt(Support):
    """Names the tokenizer that the model was loaded with."""

    def config_values(self, values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """As Support."""
        if values.get("prompt_tuning_init", "RANDOM") == "RANDOM":
            return values
        return {**values, "tokenizer_name_or_path": tokenizer.name_or_path}


class PromptEncoder(Support):
    """Has the encoder of P-tuning compute what is saved without dropout, which draws no random number then."""

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
