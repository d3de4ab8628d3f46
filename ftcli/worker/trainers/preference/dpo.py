"""TRL's DPO, with label smoothing for the standard loss as well, where TRL only applies it to four other losses.

With A = −log σ(x) and B = −log σ(−x), x the margin of a pair, conservative DPO (Mitchell 2023, "A note on DPO with
noisy preferences", equation 3) is (1 − ε)A + εB, TRL's `sigmoid` is A and its `robust` is ((1 − ε)A − εB)/(1 − 2ε). So
the first is 2(1 − ε) times the second minus (1 − 2ε) times the third, and none of TRL's code is duplicated.

`aot` and `aot_unpaired` (Melnyk et al. 2024, arXiv:2406.05882) compare two sorted samples. The held-out loss sorts all
held-out pairs; in training the sample is the rows of one pass of a process, as in TRL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.overrides import TorchFunctionMode
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from ftcli.core.errors import ConfigError, Problem
from ftcli.worker.trainers.units import OF_PAIRS, Units, pair_units
from ftcli.worker.trainers.weighted_loss import WeighedRows, recorded

_OF_TOKENS = ("sft",)
"""The losses that are a mean over tokens and not over pairs."""
_OF_SAMPLES = ("aot", "aot_unpaired")
"""The losses that compare two sorted samples, each value with that of its rank, and so are no mean over rows."""


@dataclass
class DpoConfig(DPOConfig):  # type: ignore[misc]
    """Fields of DPO beyond TRL's."""

    reference_model: str | None = None
    """A run or a model of the same vocabulary that is the reference; null is the model that the run starts from."""


class DpoTrainer(WeighedRows, DPOTrainer):  # type: ignore[misc]
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    loss_unit = "pairs"
    metric_units = OF_PAIRS
    divides_its_loss = True
    loss_types: list[str]
    loss_weights: list[float]
    use_weighting: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.label_smoothing:
            self.loss_types, self.loss_weights = smoothed(self.loss_types, self.loss_weights, self.label_smoothing)

    def take_weights(self) -> None:
        """As its parent.

        Raises:
            ConfigError: the rows have weights, and a loss sorts the answers of a batch.
        """
        super().take_weights()
        if self.column in (getattr(self.train_dataset, "column_names", None) or ()):
            self._refuse_sorting()

    def _refuse_sorting(self) -> None:
        sorting = [name for name in self.loss_types if name in _OF_SAMPLES]
        if sorting:
            what = f"the rows have weights, and the loss {sorting[0]} sorts chosen and rejected answers separately"
            fix = "remove the column of weights, or choose another method.loss_type"
            raise ConfigError(Problem("method.loss_type", what, fix))

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """As its parent."""
        return pair_units(inputs)

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """TRL's loss, in which the likelihood of chosen answers is a mean over all their tokens."""
        called, outputs = recorded(model)
        with self._likelihood_apart() as share, self._samples() as samples:
            found = self._pair_loss(called, inputs, return_outputs)
        loss, *more = found if return_outputs else (found,)
        if not self.model.training:
            loss = loss - self._kept_apart(samples)
        loss = self.part(loss, "pairs")
        if share:
            answers = inputs["completion_mask"][:, 1:].chunk(2)[0]
            of_chosen = -outputs[0].log_probs[:, -answers.size(1) :].chunk(2)[0] * answers
            if self.relative_weights is not None:
                of_chosen = of_chosen * self.relative_weights[:, None]
            loss = loss + self.part(share * of_chosen.sum() / answers.sum().clamp(min=1), "chosen_tokens")
        return (loss, *more) if return_outputs else loss

    def _kept_apart(self, samples: Sequence[Tensor]) -> float:
        """Keep the samples that a held-out batch has sorted, for all to be sorted together; gives the loss of these."""
        sorting = [index for index, name in enumerate(self.loss_types) if name in _OF_SAMPLES]
        # The losses sort last, after what a model may have sorted.
        own = samples[len(samples) - 2 * len(sorting) :]
        kept = {f"{index} {side}": own[2 * place + side] for place, index in enumerate(sorting) for side in (0, 1)}
        for name, values in kept.items():
            self.keep_rows(name, values)
        return self.loss_of_rows(kept)

    def loss_of_rows(self, kept: Mapping[str, Tensor]) -> float:
        """As its parent: the losses of sorted samples."""
        total = 0.0
        for index in {int(name.split()[0]) for name in kept}:
            first, second = (kept[f"{index} {side}"].double().sort().values for side in (0, 1))
            delta = self.beta * (first - second)
            losses = -logsigmoid(delta) * (1 - self.label_smoothing) - logsigmoid(-delta) * self.label_smoothing
            total += self.loss_weights[index] * float(losses.mean())
        return total

    def _pair_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """TRL's loss. It multiplies the loss of each pair by a weight of WPO, and a row's weight goes the same way."""
        relative = self.relative_weights
        if relative is None:
            return super()._compute_loss(model, inputs, return_outputs)
        self._refuse_sorting()
        weighs_by_wpo = self.use_weighting
        # As chosen answers have the whole weight of a pair, rejected ones have 1, whose logarithm is 0.
        log_weights = torch.cat([relative.log(), torch.zeros_like(relative)])[:, None]

        def called(**arguments: Any) -> Any:
            found = model(**arguments)
            of_wpo = found.log_sum_sq_probs if weighs_by_wpo else found.log_probs
            found.log_sum_sq_probs = of_wpo.detach() - log_weights
            return found

        with _OutOfPlace():
            self.use_weighting = True
            try:
                return super()._compute_loss(called, inputs, return_outputs)
            finally:
                self.use_weighting = weighs_by_wpo

    @contextmanager
    def _samples(self) -> Iterator[list[Tensor]]:
        """Gives what a held-out batch sorts."""
        seen = _Sorted()
        sorts = not self.model.training and any(name in _OF_SAMPLES for name in self.loss_types)
        with seen if sorts else nullcontext():
            yield seen.samples

    @contextmanager
    def _likelihood_apart(self) -> Iterator[float]:
        """Take the loss `sft` out temporarily, a mean over tokens and not over pairs; gives its weight, 0 without."""
        names, weights = self.loss_types, self.loss_weights
        pairs = [(name, weight) for name, weight in zip(names, weights, strict=True) if name not in _OF_TOKENS]
        self.loss_types, self.loss_weights = [name for name, _ in pairs], [weight for _, weight in pairs]
        try:
            yield sum(weight for name, weight in zip(names, weights, strict=True) if name in _OF_TOKENS)
        finally:
            self.loss_types, self.loss_weights = names, weights


class _OutOfPlace(TorchFunctionMode):
    """TRL multiplies the losses in place, and the gradient of `hinge` needs them as they were."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found: Tensor = func(*args, **(kwargs or {}))
        return found.clone() if func is torch.relu else found


class _Sorted(TorchFunctionMode):
    """Notes what is sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.sort:
            self.samples.append(args[0])
        return func(*args, **(kwargs or {}))


def smoothed(losses: Sequence[str], weights: Sequence[float], share: float) -> tuple[list[str], list[float]]:
    """TRL losses and weights that are equivalent to the given ones with a smoothed `sigmoid`.

    Args:
        share: ε, the assumed share of flipped labels, below 0.5.
    """
    names, of_each = [], []
    for name, weight in zip(losses, weights, strict=True):
        if name == "sigmoid":
            names += ["sigmoid", "robust"]
            of_each += [2 * (1 - share) * weight, -(1 - 2 * share) * weight]
        else:
            names.append(name)
            of_each.append(weight)
    return names, of_each
