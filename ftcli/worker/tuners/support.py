"""What a tuner needs during a run beyond its PEFT config.

PEFT leaves some things to the caller: a schedule counted in steps, a special optimiser, a base that the initialisation
changed. A declaration in ftcli/peft_methods names the class that does them; the hooks of the base class do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class Support:
    """The hooks, in the order in which a run calls them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        """The run's `peft` settings."""
        self.load_unquantised: Callable[[], PreTrainedModel] | None = None
        """Loads the run's starting model without adapter and without the run's quantisation, on the CPU."""

    def config_values(self, values: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The values of the PEFT config, given those that the declaration derives from the settings."""
        return values

    def model_loaded(self, model: PreTrainedModel) -> None:
        """Called with the bare model, before any adapter is put on it."""

    def trainer_made(self, trainer: Any) -> None:
        """Called with the trainer, its model wrapped, before anything is measured or trained."""

    def optimizer(self, trainer: Any) -> Optimizer | None:
        """The optimiser to train with; None leaves it to the trainer."""
        return None

    def penalty(self, model: Any) -> Tensor | None:
        """A scalar added to each training step's loss."""
        return None

    def other_steps(self, first: int, last: int, planned: int, now: int) -> str | None:
        """What a schedule of the tuner's own did otherwise than it would have done in a run of another length.

        Args:
            first, last: the steps that were trained while the run was to have `planned` steps.
            now: the steps that it is to have since; a schedule is left as it is for these.

        Returns:
            A clause for the user; None where it did the same, or the tuner has no schedule.
        """
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the adapter's tensors: plain data and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""

    def write(self, folder: Path) -> None:
        """Write into the folder of the saved model what belongs beside it."""

    def settle(self, trainer: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        """Bring the trained model into the form in which it is measured and saved.

        Args:
            load_base: loads the run's starting model again, without adapter.
        """
