"""Inference with a reward model: scores of rows, and of answers that a model samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ftcli.core.errors import ConfigError, Problem
from ftcli.data.scan import Example, read_as_turns
from ftcli.models.sources import head_of, resolved_source
from ftcli.settings.groups import ModelSettings
from ftcli.worker.inference.examples import reads_text_as_turns
from ftcli.worker.inference.metrics import scores
from ftcli.worker.models.load import as_granted, best_device, load_trained, make_encoder
from ftcli.worker.tokenise.encoder import Encoded, Ids


class RewardModel:
    """A reward model (a sequence classifier with one label), and its tokenizer."""

    def __init__(self, name: str, request: dict[str, Any]) -> None:
        """
        Raises:
            ConfigError: there is no such model, or it is not a reward model.
        """
        settings = as_granted(ModelSettings(name_or_path=name), request)
        source = resolved_source(name)
        if source.folder is not None and head_of(source.folder) != "reward_model":
            what = f"{name} is a causal LM, not a reward model"
            raise ConfigError(Problem(name, what, "name a model trained with method=reward"))
        device = best_device()
        self.model = load_trained(settings, seed=0, device=device, head="reward_model").to(device).eval()
        self.encoder = make_encoder(settings)
        self.as_turns = reads_text_as_turns(name, self.encoder)

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """The tokens of answered rows as the model was trained to read them.

        Raises:
            DataError: the chat template refuses a row.
        """
        return self.encoder.encode([read_as_turns(each) for each in examples] if self.as_turns else examples)

    def score(self, sequences: Sequence[Ids]) -> list[float]:
        """The reward score of each token sequence, a prompt followed by its answer."""
        with torch.no_grad():
            (found,) = scores(self.model, self.encoder, [[] for _ in sequences], sequences)
        return [float(score) for score in found]
