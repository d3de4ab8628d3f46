"""A reference of DPO that is another model than the one that the run starts from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.plan.outlook import plan
from ftcli.worker.training.load import load
from ftcli.worker.training.run import build_trainer, train
from tests.worker.conftest import LORA, pair_of_answers, write_rows
from tests.worker.trainers.test_dpo_losses import log_probs


@pytest.fixture
def other(models: Any, tokenizer: Any, tmp_path: Any) -> Any:
    """The folder of a model that has moved away from the random llama."""
    model = AutoModelForCausalLM.from_pretrained(models["llama"])
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize("peft", [None, {**LORA, "lora_dropout": 0.0}], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_the_named_model_is_the_reference(name, peft, other, make_spec, new_run, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [pair_of_answers(i) for i in range(4)])
    method = {"name": name, "beta": 0.5, "reference_model": str(other)}
    spec = make_spec(path, method=method, peft=peft, train={"max_steps": 2})
    trainer = build_trainer(load(spec, new_run(spec, "run")))
    batch = dict(trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    with torch.no_grad():
        ours = log_probs(trainer.model, batch)
        theirs = log_probs(AutoModelForCausalLM.from_pretrained(other), batch)
    ratios = ours - theirs
    if name == "ipo":
        ratios = ratios / batch["completion_mask"].sum(1)
        margin = ratios.chunk(2)[0] - ratios.chunk(2)[1]
        expected = ((margin - 1) ** 2).mean().item()
    else:
        margin = 0.5 * (ratios.chunk(2)[0] - ratios.chunk(2)[1])
        expected = -torch.nn.functional.logsigmoid(margin).mean().item()
        assert abs(expected - math.log(2)) > 1e-3, "the reference is the policy itself"
    assert loss == pytest.approx(expected, abs=1e-5)
    train(new_run(spec, "whole"))


def test_a_reference_of_another_vocabulary_or_head_is_refused(other, models, make_spec, new_run, tmp_path, problems):
    from ftcli import tiny

    path = write_rows(tmp_path / "rows.jsonl", [pair_of_answers(i) for i in range(4)])
    spec = make_spec(path, method={"name": "dpo", "reference_model": str(other)})
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match="has another vocabulary than"):
        load(spec, new_run(spec, "run"))
    common = ("method=dpo", f"data.path={path}")
    assert any("nowhere/at/all" in text for text in problems(*common, "method.reference_model=nowhere/at/all"))
    both = (f"method.reference_model={tiny.MODEL_DIR}", "method.precompute_ref_log_probs=true")
    [text] = problems(*common, *both)
    assert "method.precompute_ref_log_probs asks the model that trains" in text


@pytest.mark.parametrize("peft", ["none", "lora"])
def test_the_plan_counts_one_reference(peft, other, here):
    def gib(*more: str) -> float:
        run = run_of(Request(overrides=("method=dpo", f"peft={peft}", f"model.name_or_path={other}", *more)))
        memory = plan(run).memory
        assert memory is not None
        return memory.phases["training"]["reference"] + memory.phases["training"]["other_models"]

    held, named = gib(), gib(f"method.reference_model={other}")
    assert named > 0
    assert held == (pytest.approx(named) if peft == "none" else 0)  # in place of the frozen copy, and beside an adapter
