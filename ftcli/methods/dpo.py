"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

The reference is the run's starting model: the policy with its adapter disabled, or under full fine-tuning a frozen
second copy. `method.reference_model` names another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftcli.core.errors import Problem
from ftcli.methods.method import Method
from ftcli.methods.training_defaults import TrainingDefaults
from ftcli.settings.batch_plan import BatchPlan
from ftcli.settings.library_fields import value_of
from ftcli.settings.limits import Limit
from ftcli.settings.sourced_defaults import BySize, Default

_CONFIG = "ftcli.worker.trainers.preference.dpo:DpoConfig"

# Other divergences leave a partition function, which cancels only in losses of the difference within a pair.
OF_DIVERGENCES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")

_TENFOLD = "ten times full fine-tuning's (LoRA Without Regret)"
TRAINING = TrainingDefaults(
    full=BySize(
        {
            4: Default(value=1e-6, source="SmolLM2 135M to 1.7B and SmolLM3 3B: 1e-6"),
            40: Default(value=5e-7, source="Zephyr 7B, Tulu 3 8B: 5e-7; OLMo 2 13B: 8e-7"),
            math.inf: Default(value=2e-7, source="Tulu 3 70B: 2e-7"),
        }
    ),
    adapter=BySize(
        {
            4: Default(value=1e-5, source=_TENFOLD),
            40: Default(value=5e-6, source="Zephyr 7B QLoRA, TRL's LoRA example and Unsloth: 5e-6"),
            math.inf: Default(value=2e-6, source=_TENFOLD),
        }
    ),
    epochs=Default(value=1, source="Zephyr, Tulu 3, SmolLM3, SimPO: 1; a second pass lowers both answers' likelihood"),
    batch=Default(
        value=32,
        source="HALOs (arXiv:2402.01306): 32; Zephyr, Tulu 3 and SimPO: 128, for sixty thousand pairs and more",
    ),
    schedule=Default(value="cosine", source="Zephyr, SmolLM2, SimPO: cosine; Tulu 3: linear"),
    warmup=Default(value=0.1, source="Zephyr, Tulu 3, SmolLM3, SimPO, HALOs: 0.1"),
)
BETA = Default(value=0.1, source="Rafailov et al. 2023, arXiv:2305.18290, appendix B: 0.1; Zephyr: 0.01, SmolLM2: 0.5")


def check(method: Mapping[str, Any]) -> list[Problem]:
    """Rules among DPO's own fields."""
    losses = value_of(_CONFIG, method, "loss_type")
    names = [losses] if isinstance(losses, str) else list(losses)
    if not names:
        return [Problem("method.loss_type", "method.loss_type names no loss", "name one, such as sigmoid")]
    return [*_weights(method, names), *_divergence(method, names), *_smoothing(method, names), *_reference(method)]


def _reference(method: Mapping[str, Any]) -> Iterator[Problem]:
    if method.get("reference_model") and method.get("precompute_ref_log_probs"):
        what = (
            "method.precompute_ref_log_probs asks the model that trains, and method.reference_model names another one"
        )
        yield Problem("method.reference_model", what, "remove one of them")


def _weights(method: Mapping[str, Any], names: Sequence[str]) -> Iterator[Problem]:
    weights = method.get("loss_weights")
    if weights is not None and len(weights) != len(names):
        what = f"method.loss_weights has {len(weights)} entries for {len(names)} losses"
        yield Problem("method.loss_weights", what, "give one weight for each entry of method.loss_type")
    sorting = [name for name in names if name.startswith("aot")]
    if method.get("use_weighting") and sorting:
        what = f"method.use_weighting weights pairs, and the loss {sorting[0]} sorts chosen and rejected separately"
        yield Problem("method.use_weighting", what, "remove it, or choose another method.loss_type")


def _divergence(method: Mapping[str, Any], names: Sequence[str]) -> Iterator[Problem]:
    divergence = value_of(_CONFIG, method, "f_divergence_type")
    others = [name for name in names if name not in OF_DIVERGENCES]
    if divergence != "reverse_kl" and others:
        what = f"method.f_divergence_type={divergence} does not apply to the loss {others[0]}"
        yield Problem("method.f_divergence_type", what, f"use one of {', '.join(OF_DIVERGENCES)}, or reverse_kl")


def _smoothing(method: Mapping[str, Any], names: Sequence[str]) -> Iterator[Problem]:
    share = value_of(_CONFIG, method, "label_smoothing")
    if "exo_pair" in names and not share > 0:
        what = "method.loss_type=exo_pair needs method.label_smoothing above 0"
        yield Problem("method.loss_type", what, "add method.label_smoothing=1e-3")
    if share >= 0.5:
        what = f"method.label_smoothing={share:g} leaves nothing to learn: at 0.5, half of the labels are wrong"
        yield Problem("method.label_smoothing", what, "set it below 0.5")
    elif share and not set(names) & set(SMOOTHED):
        what = f"method.label_smoothing is not read by the loss {names[0]}"
        yield Problem("method.label_smoothing", what, f"remove it, or use one of {', '.join(SMOOTHED)}")


def warns(method: Mapping[str, Any], batch: BatchPlan, sequences: int) -> list[str]:
    """The warning of a loss that is not the whole of its paper's."""
    losses = method["loss_type"]
    if "bco_pair" not in ([losses] if isinstance(losses, str) else losses):
        return []
    what = (
        "method.loss_type=bco_pair is without the running mean of rewards by which its paper (arXiv:2404.04656) shifts"
    )
    return [f"{what} both answers' rewards: TRL leaves the shift at 0"]


METHOD = Method(
    name="dpo",
    summary="Direct preference optimisation: learns from chosen and rejected answers, without a reward model.",
    trainer="ftcli.worker.trainers.preference.dpo:DpoTrainer",
    config=_CONFIG,
    task="preference",
    weights="rows",
    loss_over="pairs",
    kinds=("preference",),
    roles=("policy", "reference"),
    score="preference_accuracy",
    training=TRAINING,
    sources={"beta": BETA},
    paper="Rafailov et al. 2023, arXiv:2305.18290",
    limits={
        "beta": Limit(low=0.0, open_low=True),
        "label_smoothing": Limit(low=0.0, high=0.5),
        "ld_alpha": Limit(low=0.0, high=1.0),
    },
    check=check,
    warns=warns,
)
