"""The fifteen losses of DPO, each derived again from its paper: values and gradients from plain logits.

Shapes: B pairs; c and r are log π(y|x) − log π_ref(y|x) of the chosen and the rejected answers, (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.plan.outlook import plan
from tests.worker.trainers.test_dpo import LOSSES, reference
from tests.worker.trainers.test_reference_free import batch_of, gradients, trainer_of

__all__ = ["reference"]

BETA, SMOOTHING, TAU = 0.4, 0.2, 0.07


class Pairs(NamedTuple):
    """What the formulas are made of."""

    c: Tensor
    r: Tensor
    chosen: Tensor
    """log π of the chosen answers."""
    rejected: Tensor
    ref_chosen: Tensor
    """log π_ref of the chosen answers."""
    ref_rejected: Tensor
    chosen_tokens: Tensor
    """The length of each chosen answer."""
    rejected_tokens: Tensor


def sigma(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def nll(x: Tensor) -> Tensor:
    """−log σ(x)."""
    return torch.log(1 + torch.exp(-x))


def exo(p: Pairs) -> Tensor:
    """Ji et al. 2024, arXiv:2402.00856, equation 16: KL(p_θ ‖ (1 − ε, ε)), p_θ the softmax of β·(c, r)."""
    both = torch.softmax(BETA * torch.stack([p.c, p.r], 1), 1)
    return both[:, 0] * torch.log(both[:, 0] / (1 - SMOOTHING)) + both[:, 1] * torch.log(both[:, 1] / SMOOTHING)


def in_order(values: Tensor) -> Tensor:
    return values.sort().values


FORMULAS: dict[str, Callable[[Pairs], Tensor]] = {
    # Rafailov et al. 2023, arXiv:2305.18290, equation 7, with the smoothing of Mitchell 2023, equation 3.
    "sigmoid": lambda p: (1 - SMOOTHING) * nll(BETA * (p.c - p.r)) + SMOOTHING * nll(-BETA * (p.c - p.r)),
    # Of a mean over tokens each: Lambert et al. 2024 (Tulu 3), arXiv:2411.15124.
    "sigmoid_norm": lambda p: nll(BETA * (p.c / p.chosen_tokens - p.r / p.rejected_tokens)),
    # Liu et al. 2023 (RSO), arXiv:2309.06657; Zhao et al. 2023 (SLiC), arXiv:2305.10425.
    "hinge": lambda p: (1 - BETA * (p.c - p.r)).clamp(min=0),
    # Azar et al. 2023, arXiv:2310.12036, equation 17, on means over tokens.
    "ipo": lambda p: (p.c / p.chosen_tokens - p.r / p.rejected_tokens - 1 / (2 * BETA)) ** 2,
    "exo_pair": exo,
    # Chen et al. 2024, arXiv:2402.05369, with two answers, of which the first has the reward.
    "nca_pair": lambda p: nll(BETA * p.c) + nll(-BETA * p.c) / 2 + nll(-BETA * p.r) / 2,
    # Chowdhury et al. 2024, arXiv:2403.00409.
    "robust": lambda p: (
        ((1 - SMOOTHING) * nll(BETA * (p.c - p.r)) - SMOOTHING * nll(-BETA * (p.c - p.r))) / (1 - 2 * SMOOTHING)
    ),
    # Jung et al. 2024, arXiv:2404.04656, with the shift of the rewards at 0.
    "bco_pair": lambda p: nll(BETA * p.c) + nll(-BETA * p.r),
    # Wu et al. 2024, arXiv:2405.00675, equation 4.7, with P = 1 and 0 and η = 1/β, divided by η².
    "sppo_hard": lambda p: (p.c - 1 / (2 * BETA)) ** 2 + (p.r + 1 / (2 * BETA)) ** 2,
    # Melnyk et al. 2024, arXiv:2406.05882: quantile against quantile.
    "aot": lambda p: _smoothed(BETA * (in_order(p.chosen - p.rejected) - in_order(p.ref_chosen - p.ref_rejected))),
    "aot_unpaired": lambda p: _smoothed(BETA * (in_order(p.c) - in_order(p.r))),
    # D'Oosterlinck et al. 2024, arXiv:2408.06266, equations 7 and 8, each plus a constant.
    "apo_zero": lambda p: 1 - sigma(BETA * p.c) + sigma(BETA * p.r),
    "apo_down": lambda p: 1 + sigma(BETA * p.c) - sigma(BETA * (p.c - p.r)),
    # Lu et al. 2024, arXiv:2406.08414, equation 5.
    "discopop": lambda p: (
        (1 - sigma(BETA * (p.c - p.r) / TAU)) * nll(BETA * (p.c - p.r))
        + sigma(BETA * (p.c - p.r) / TAU) * torch.exp(-BETA * (p.c - p.r))
    ),
    # The likelihood of the chosen answers, a mean over all their tokens.
    "sft": lambda p: -p.chosen.sum() / p.chosen_tokens.sum() * torch.ones_like(p.chosen),
}
SMOOTHED = ("sigmoid", "exo_pair", "robust", "aot", "aot_unpaired")


def _smoothed(margin: Tensor) -> Tensor:
    return (1 - SMOOTHING) * nll(margin) + SMOOTHING * nll(-margin)


def log_probs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Summed over the answers' tokens, (2B,)."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)[:, :-1]
    of_tokens = logits.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    return (of_tokens * batch["completion_mask"][:, 1:]).sum(1)


def test_every_loss_of_dpo_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)
    assert len(FORMULAS) == 15


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradients_are_those_of_its_paper(name, models, tokenizer, reference, tmp_path):
    more = {"label_smoothing": SMOOTHING} if name in SMOOTHED else {}
    settings = {"loss_type": [name], "beta": BETA, "discopop_tau": TAU, **more}
    trainer = trainer_of("dpo", models, tokenizer, tmp_path, reference=reference, **settings)
    batch = batch_of(trainer)
    trainer.model.train()  # AOT sorts held-out pairs all together, after the last of them
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    found = gradients(trainer.model)
    trainer.model.zero_grad()

    ours = log_probs(trainer.model, batch)
    with torch.no_grad():
        theirs = log_probs(reference, batch)
    lengths = batch["completion_mask"].sum(1).float()
    (chosen, rejected), (ref_chosen, ref_rejected), tokens = ours.chunk(2), theirs.chunk(2), lengths.chunk(2)
    pairs = Pairs(chosen - ref_chosen, rejected - ref_rejected, chosen, rejected, ref_chosen, ref_rejected, *tokens)
    expected = FORMULAS[name](pairs).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=2e-6, rel=2e-6)
    expected.backward()
    for key, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(found[key], gradient, atol=2e-5, rtol=1e-4)


def test_bco_says_that_it_has_no_running_mean(here):
    def warned(loss: str) -> list[str]:
        run = run_of(Request(overrides=("method=dpo", f"method.loss_type={loss}")))
        return [text for text in plan(run).warnings if "running mean" in text]

    assert len(warned("[bco_pair]")) == len(warned("[sft,bco_pair]")) == 1
    assert warned("[sigmoid]") == []
