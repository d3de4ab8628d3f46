"""The named forms of GRPO's loss: what each sets; and their losses and RLOO's on real answers against the formulas."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftcli.build.resolve import run_of, spec_of
from ftcli.config.compose import Request
from ftcli.methods.grpo import VARIANTS
from ftcli.plan.outlook import plan
from ftcli.settings.fields.field_table import FIELDS
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer
from tests.worker.rl import taught

LONGEST, GROUP, PATTERN = 4, 4, "blue|s"
COMMON = (
    f"method.rewards={{regex: {{pattern: '{PATTERN}'}}}}", "data.path=prompts.jsonl",
    f"method.num_generations={GROUP}", f"method.max_completion_length={LONGEST}", "method.num_iterations=2",
    "train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=2", "data.eval_path=null",
    "hardware=cpu", "hardware.num_threads=1", "run.score_rows=0", "train.eval_strategy=no", "train.save_strategy=no",
)  # fmt: skip


# --- what a variant sets ----------------------------------------------------------------------------------------------


def notes(*overrides: str) -> dict[str, tuple[Any, str]]:
    return {note.key: (note.value, note.why) for note in spec_of(Request(overrides=overrides)).notes}


def test_the_words_of_the_field_are_the_declared_variants():
    assert FIELDS["method.variant"].choices == tuple(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_sets_its_fields_and_the_plan_says_so(name, here):
    spec = spec_of(Request(overrides=("method=grpo", f"method.variant={name}", "method.num_iterations=2")))
    found = {note.key: (note.value, note.why) for note in spec.notes}
    for field, value in VARIANTS[name].fields.items():
        assert spec.method[field] == value
        assert found[f"method.{field}"] == (value, f"method.variant={name}: {VARIANTS[name].paper}")


def test_without_a_variant_the_plan_says_whose_loss_it_is(here):
    value, why = notes("method=grpo")["method.loss_type"]
    assert value == "dapo"  # of TRL 1.16; a run keeps it, whatever a later TRL does
    assert why.startswith("TRL's default, the mean over all tokens of a step")
    assert "method.loss_type" not in notes("method=grpo", "method.loss_type=bnpo")
    assert "method.loss_type" not in notes("method=rloo")


def test_a_value_of_ones_own_is_kept_and_noted_and_a_contradiction_is_refused(here, problems):
    found = notes("method=grpo", "method.variant=dapo", "method.epsilon_high=0.3")
    assert found["method.epsilon_high"][0] == 0.3
    assert found["method.epsilon_high"][1].startswith("set; method.variant=dapo has 0.28 (Yu et al. 2025")
    [text] = problems("method=grpo", "method.variant=gspo", "method.importance_sampling_level=token")
    assert "method.variant=gspo is defined by method.importance_sampling_level=sequence, and token is set" in text
    assert problems("method=grpo", "method.variant=dapo", "method.loss_type=dapo") == []
    assert any("choose from cispo, dapo" in text for text in problems("method=grpo", "method.variant=ppo"))
    assert problems("method=rloo", "method.variant=grpo") != []


@pytest.mark.parametrize(("name", "other"), [("gspo", "grpo"), ("cispo", "dapo"), ("dapo", None)])
def test_a_variant_of_the_ratio_says_where_it_changes_nothing(name, other, here):
    def warned(*more: str) -> list[str]:
        run = run_of(Request(overrides=("method=grpo", f"method.variant={name}", *more)))
        return [text for text in plan(run).warnings if "probability ratio" in text]

    assert len(warned()) == (other is not None)
    for text in warned("train.gradient_accumulation_steps=2"):
        assert f"the loss is that of {other}" in text
        assert "method.steps_per_generation=8" in text
    assert warned("method.steps_per_generation=4") == warned("method.num_iterations=2") == []


# --- the loss ---------------------------------------------------------------------------------------------------------


def by_formula(name: str, ratio: Tensor, log_probs: Tensor, log_refs: Tensor, mask: Tensor, gains: Tensor) -> Tensor:
    """The loss of a step by its paper.

    Args:
        ratio: π(o_t)/π_old(o_t) of N answers of at most T tokens, (N, T); the others alike.
        gains: rewards minus the mean of their group, (N,).
    """
    lengths = mask.sum(1)
    deviations = torch.tensor([group.std().item() for group in gains.view(-1, GROUP)]).repeat_interleave(GROUP)
    scaled = (gains / (deviations + 1e-4))[:, None]

    def clipped(low: float, high: float, value: Tensor, advantage: Tensor) -> Tensor:
        return torch.minimum(value * advantage, value.clamp(1 - low, 1 + high) * advantage)

    if name == "grpo":  # 1/N Σ_i 1/|o_i| Σ_t [min(…) − β·(π_ref/π − log π_ref/π − 1)], β = 0.04
        away = (log_refs - log_probs).exp() - (log_refs - log_probs) - 1
        terms = clipped(0.2, 0.2, ratio, scaled) - 0.04 * away
        return -((terms * mask).sum(1) / lengths).mean()
    if name == "dr_grpo":  # 1/N Σ_i 1/L Σ_t min(…), of advantages that are not divided
        terms = clipped(0.2, 0.2, ratio, gains[:, None])
        return -((terms * mask).sum(1) / LONGEST).mean()
    if name == "dapo":  # 1/Σ|o_i| Σ_i Σ_t min(…), clipped to 0.8 … 1.28
        return -(clipped(0.2, 0.28, ratio, scaled) * mask).sum() / mask.sum()
    if name == "gspo":  # 1/N Σ_i min(s_i A_i, …), s_i = (π(o)/π_old(o))^(1/|o|)
        whole = ((ratio.log() * mask).sum(1) / lengths).exp()
        return -clipped(3e-4, 4e-4, whole, scaled[:, 0]).mean()
    assert name == "cispo"  # 1/Σ|o_i| Σ_i Σ_t sg(min(r, 5)) A log π
    return -((ratio.clamp(max=5.0).detach() * scaled * log_probs) * mask).sum() / mask.sum()


def answer_log_probs(model: Any, inputs: Any) -> Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"].clamp(min=1)], 1)
    width = inputs["completion_ids"].size(1)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1].log_softmax(-1)
    return logits.gather(-1, inputs["completion_ids"][..., None])[..., 0]


def moved(model: Any, by: float) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=by)


@dataclass(frozen=True)
class Step:
    """A step of N answers of at most T tokens, of a policy that moved since it sampled them."""

    loss: float
    gradients: dict[str, Tensor]
    model: Any
    now: Tensor
    """log π(o_t), (N, T), with gradients; the next two alike, without."""
    old: Tensor
    refs: Tensor
    ended: Tensor
    """Whether each answer ended, (N,)."""
    mask: Tensor
    """1 for the tokens of an answer with its end, (N, T)."""
    rewards: Tensor
    prompts: list[tuple[int, ...]]

    def others(self, answer: int) -> list[int]:
        """The other answers to its prompt."""
        return [i for i, asked in enumerate(self.prompts) if asked == self.prompts[answer] and i != answer]

    def require(self, expected: Tensor) -> None:
        """Compare loss and gradients with those of a formula."""
        assert self.loss == pytest.approx(expected.item(), abs=1e-6)
        self.model.zero_grad()
        expected.backward()
        for key, parameter in self.model.named_parameters():
            if key in self.gradients:
                torch.testing.assert_close(self.gradients[key], parameter.grad, atol=1e-6, rtol=1e-4)


def step_of(here: Path, tokenizer: Any, teacher: Path, *own: str) -> Step:
    """A step of a policy that answers with two of four words, some of which are too long."""
    rows = [{"prompt": asked} for asked in ("Pick.", "Pick three.", "Pick red.", "Say sun.")]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = spec_of(Request(overrides=(*COMMON, *own, f"model.name_or_path={teacher}", "run.dir=run")))
    Path("run").mkdir()
    trainer = build_trainer(load(spec, here / "run"))
    model = trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    torch.manual_seed(2)
    moved(model, 0.02)  # away from the reference
    generation = next(iter(trainer.get_train_dataloader()))
    parts = [trainer._prepare_inputs(generation)]
    trainer._step += 1
    parts.append(trainer._prepare_inputs(generation))
    with torch.no_grad():
        old = torch.cat([answer_log_probs(model, part) for part in parts])
    moved(model, 0.01)  # away from the policy that sampled
    trainer._prepare_inputs = dict  # which they are already
    loss = sum(float(trainer.training_step(model, part, None)) for part in parts)
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    now = torch.cat([answer_log_probs(model, part) for part in parts])
    with torch.no_grad():
        refs = torch.cat([answer_log_probs(trainer.ref_model or model, part) for part in parts])
    answers = torch.cat([part["completion_ids"] for part in parts])
    ends = [(row == tokenizer.eos_token_id).nonzero() for row in answers]
    mask = torch.zeros(answers.shape)
    for row, end in zip(mask, ends, strict=True):
        row[: int(end[0]) + 1 if len(end) else LONGEST] = 1
    ids = [row[real.bool()] for row, real in zip(answers, mask, strict=True)]
    said = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rewards = torch.tensor([float(bool(re.search(PATTERN, text))) for text in said])
    ended = torch.tensor([float(len(end) > 0) for end in ends])
    assert 0 < ended.sum() < len(ended)
    # The answers of a generation are shuffled: each is found among its group's by its prompt.
    prompts = [tuple(row.tolist()) for part in parts for row in part["prompt_ids"]]
    return Step(loss, gradients, model, now, old, refs, ended, mask, rewards, prompts)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_of_a_variant_is_its_papers(name, here, make_spec, once, tokenizer):
    step = step_of(here, tokenizer, taught(once, make_spec, 2), "method=grpo", f"method.variant={name}")
    means = torch.stack([step.rewards[[i, *step.others(i)]].mean() for i in range(len(step.prompts))])
    order = sorted(range(len(step.prompts)), key=lambda index: step.prompts[index])
    gains = (step.rewards - means)[order]
    assert gains.abs().sum() > 0
    # DAPO: truncated answers count for nothing
    mask = step.mask * step.ended[:, None] if name == "dapo" else step.mask
    ratio = (step.now - step.old).exp()
    step.require(by_formula(name, ratio[order], step.now[order], step.refs[order], mask[order], gains))


def test_the_loss_of_rloo_is_its_papers(here, make_spec, once, tokenizer):
    """1/N Σ_i min(r_i A_i, clip(r_i) A_i): r_i = π(o)/π_old(o) of the whole answer, A_i its reward minus the mean of
    the others', each less β Σ_t log π_old/π_ref (Ahmadian et al. 2024, equations 5 to 8; clipped as by TRL)."""
    step = step_of(here, tokenizer, taught(once, make_spec, 2), "method=rloo", "method.beta=0.05")
    shaped = step.rewards - 0.05 * ((step.old - step.refs) * step.mask).sum(1)
    gains = torch.stack([shaped[i] - shaped[step.others(i)].mean() for i in range(len(step.prompts))])
    assert gains.abs().sum() > 0
    ratio = ((step.now - step.old) * step.mask).sum(1).exp()
    step.require(-torch.minimum(ratio * gains, ratio.clamp(0.8, 1.2) * gains).mean())
