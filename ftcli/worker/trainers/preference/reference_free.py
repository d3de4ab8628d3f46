"""Preference optimisation without a reference model: ORPO, CPO and SimPO on the data path of TRL's DPO trainer.

One forward pass of the policy over chosen and rejected answers, through the fused LM head: neither the logits nor a
second model are ever in memory. The three differ only in the loss per pair, one function each.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from ftcli.worker.tokenise.encoder import IGNORED
from ftcli.worker.trainers.fused_head import replaced
from ftcli.worker.trainers.units import Units, pair_units
from ftcli.worker.trainers.weighted_loss import WeighedRows, weighted_mean


@dataclass
class OrpoConfig(DPOConfig):  # type: ignore[misc]
    """Fields of ORPO beyond those of the DPO trainer."""

    beta: float = 0.1
    """Weight of the odds ratio term, λ in the paper."""
    nll_on_prompt: bool = False
    """Whether the likelihood term covers the prompt as well, as in TRL; in the paper it covers the answer only."""


@dataclass
class CpoConfig(DPOConfig):  # type: ignore[misc]
    """Fields of CPO beyond those of the DPO trainer."""

    beta: float = 0.1
    """How sharply the answers' log-probabilities are separated."""
    nll_weight: float = 1.0
    """Weight of the likelihood of the chosen answer, a mean over its tokens."""


@dataclass
class SimpoConfig(DPOConfig):  # type: ignore[misc]
    """Fields of SimPO beyond those of the DPO trainer."""

    beta: float = 2.0
    """How sharply the answers' mean log-probabilities are separated; 2 to 2.5 in the paper, 10 for some models."""
    gamma: float = 1.0
    """The margin by which the chosen answer should win; 0.3 to 1.6 in the paper, about half of beta."""
    nll_weight: float = 0.0
    """Weight of the likelihood of the chosen answer; not in the paper."""


@dataclass(frozen=True)
class Side:
    """One side of a batch of B pairs: log-probabilities of the answers, each of shape (B,)."""

    total: Tensor
    """Sum over the answer's tokens."""
    mean: Tensor
    """Mean over the answer's tokens."""


def _side(log_probs: Tensor, mask: Tensor) -> Side:
    """The side with these token log-probabilities, where the mask is 1; both of shape (B, L)."""
    total = (log_probs * mask).sum(1)
    return Side(total, total / mask.sum(1).clamp(min=1))


def odds_ratio_loss(chosen: Side, rejected: Side) -> Tensor:
    """−log σ(log odds(y_w) − log odds(y_l)), odds(y) = P/(1 − P) with P the geometric mean over an answer's tokens.

    Hong et al. 2024, arXiv:2403.07691, equations 4 and 7. Shape (B,).
    """

    def log_odds(side: Side) -> Tensor:
        return side.mean - torch.log(-torch.expm1(side.mean))

    return -logsigmoid(log_odds(chosen) - log_odds(rejected))


def contrastive_loss(chosen: Side, rejected: Side, beta: float, label_smoothing: float) -> Tensor:
    """−log σ(β(log π(y_w) − log π(y_l))), Xu et al. 2024, arXiv:2401.08417, equation 5. Shape (B,)."""
    return _smoothed(beta * (chosen.total - rejected.total), label_smoothing)


def simpo_loss(chosen: Side, rejected: Side, beta: float, gamma: float, label_smoothing: float) -> Tensor:
    """−log σ(β(mean log π(y_w) − mean log π(y_l)) − γ). Meng et al. 2024, arXiv:2405.14734, equation 6. Shape (B,)."""
    return _smoothed(beta * (chosen.mean - rejected.mean) - gamma, label_smoothing)


def _smoothed(margin: Tensor, label_smoothing: float) -> Tensor:
    return -logsigmoid(margin) * (1 - label_smoothing) - logsigmoid(-margin) * label_smoothing


class ReferenceFreeTrainer(WeighedRows, DPOTrainer):  # type: ignore[misc]
    """A pair's loss plus the likelihood of the chosen answer, without a reference."""

    loss_unit = "pairs"
    metric_units: ClassVar = {"nll": "likely_tokens"}
    divides_its_loss = True
    has_reference: ClassVar[bool] = False
    length_normalised: ClassVar[bool]
    """Whether an answer's reward is its mean log-probability; otherwise it is the sum."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with _without_what_is_not_used():
            super().__init__(*args, **kwargs)
        self.precompute_ref_logps = False  # it was only set to keep TRL from loading a reference

    def units(self, inputs: Mapping[str, Any]) -> Units:
        """As its parent."""
        answers = inputs["completion_mask"][:, 1:].chunk(2)[0]
        return {**pair_units(inputs), "likely_tokens": self.nll_mask(inputs, answers).sum()}

    def pair_loss(self, chosen: Side, rejected: Side) -> Tensor:
        """The preference term of each pair, of shape (B,)."""
        raise NotImplementedError

    def nll_weight(self) -> float:
        """Weight of the likelihood of the chosen answers."""
        return float(self.args.nll_weight)

    def nll_mask(self, inputs: Any, answers: Tensor) -> Tensor:
        """The tokens of the chosen sequences whose likelihood counts, (B, L); `answers` marks those of the answers."""
        return answers

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        """The loss of a batch of 2B sequences: B chosen ones, then their B rejected ones."""
        answers = inputs["completion_mask"][:, 1:]
        chosen_answers, rejected_answers = answers.chunk(2)
        likely = self.nll_mask(inputs, chosen_answers)
        read = torch.cat([likely | chosen_answers, rejected_answers]).bool()
        labels = inputs["input_ids"].masked_fill(~torch.nn.functional.pad(read, (1, 0)), IGNORED)
        more = {"use_cache": False, **({"output_router_logits": True} if self.aux_loss_enabled else {})}
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            fused_lm_head=True,
            **more,
        )
        # Prompt learning puts virtual tokens first; the row's own tokens are the last ones.
        of_chosen, of_rejected = outputs.log_probs[:, -answers.size(1) :].chunk(2)
        chosen, rejected = _side(of_chosen, chosen_answers), _side(of_rejected, rejected_answers)
        relative = self.relative_weights
        weighed = of_chosen if relative is None else of_chosen * relative[:, None]
        likelihood = -(weighed * likely).sum() / likely.sum().clamp(min=1)
        loss = weighted_mean(self.pair_loss(chosen, rejected), relative)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        loss = self.part(loss, "pairs") + self.part(self.nll_weight() * likelihood, "likely_tokens")
        self._record(inputs, chosen, rejected, likelihood)
        return (loss, outputs) if return_outputs else loss

    def _record(self, inputs: Any, chosen: Side, rejected: Side, likelihood: Tensor) -> None:
        """Log DPO's metrics under DPO's names, with the policy's own log-probabilities as rewards."""
        mode = "train" if self.model.training else "eval"
        kept = self._metrics[mode]
        gathered = self.accelerator.gather_for_metrics
        better, worse = ((side.mean if self.length_normalised else side.total).detach() for side in (chosen, rejected))
        means = {
            "rewards/chosen": self.beta * better,
            "rewards/rejected": self.beta * worse,
            "rewards/accuracies": (better > worse).float(),
            "rewards/margins": self.beta * (better - worse),
            "logps/chosen": chosen.total.detach(),
            "logps/rejected": rejected.total.detach(),
            "nll": likelihood.detach(),
        }
        for name, values in means.items():
            kept[name].append(gathered(values).mean().item())
        if mode == "train":
            self._total_train_tokens += gathered(inputs["attention_mask"].sum()).sum().item() // self._tp_size
        kept["num_tokens"] = [self._total_train_tokens]


class OrpoTrainer(ReferenceFreeTrainer):
    """Odds ratio preference optimisation: L = L_SFT + λ·L_OR (equation 6)."""

    _tag_names: ClassVar[list[str]] = ["trl", "orpo"]
    length_normalised = True

    def pair_loss(self, chosen: Side, rejected: Side) -> Tensor:
        """As its parent."""
        return self.beta * odds_ratio_loss(chosen, rejected)

    def nll_weight(self) -> float:
        """As its parent: 1 in the paper."""
        return 1.0

    def nll_mask(self, inputs: Any, answers: Tensor) -> Tensor:
        """As its parent."""
        return inputs["attention_mask"].chunk(2)[0][:, 1:] if self.args.nll_on_prompt else answers


class CpoTrainer(ReferenceFreeTrainer):
    """Contrastive preference optimisation."""

    _tag_names: ClassVar[list[str]] = ["trl", "cpo"]
    length_normalised = False

    def pair_loss(self, chosen: Side, rejected: Side) -> Tensor:
        """As its parent."""
        return contrastive_loss(chosen, rejected, self.beta, self.label_smoothing)


class SimpoTrainer(ReferenceFreeTrainer):
    """Simple preference optimisation."""

    _tag_names: ClassVar[list[str]] = ["trl", "simpo"]
    length_normalised = True

    def pair_loss(self, chosen: Side, rejected: Side) -> Tensor:
        """As its parent."""
        return simpo_loss(chosen, rejected, self.beta, self.args.gamma, self.label_smoothing)


def _without_what_is_not_used() -> AbstractContextManager[None]:
    """Skip the DPO trainer's hash of the weights, and compute only the log-probabilities in the fused head."""
    head = dpo_trainer.add_fused_lm_head
    return replaced(
        dpo_trainer,
        hash_module=lambda module: "",
        add_fused_lm_head=lambda model, outputs=(): head(model, outputs=("log_probs",)),
    )
