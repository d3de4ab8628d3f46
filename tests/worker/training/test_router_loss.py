"""The loss of a router is asked of models that have one, and of no others of their class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer
from trl import DPOConfig, SFTConfig

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.methods import get_method
from ftcli.worker.models.architecture import has_router, has_router_loss
from ftcli.worker.models.packing_trial import small_model
from ftcli.worker.training.trainer import make_trainer

ROW = [5, 9, 17, 30, 4, 8]
DENSE = {"doge": {}, "granitemoehybrid": {"num_local_experts": 0}, "qwen3_moe": {"mlp_only_layers": list(range(24))}}
"""Models without experts whose class can have them: Doge as it is, Granite 4 Micro, and a Qwen3 of that kind."""
MIXTURES = {"doge": {"is_moe": True}, "granitemoehybrid": {}, "qwen3_moe": {}, "jetmoe": {}}


def model_of(model_type: str, **fields: Any) -> Any:
    return small_model(AutoConfig.for_model(model_type, **fields))


def sft(model: Any, folder: Path, **settings: Any) -> Any:
    config = SFTConfig(
        output_dir=str(folder), max_steps=1, use_cpu=True, bf16=False, report_to="none", remove_unused_columns=False,
        gradient_checkpointing=False, disable_tqdm=True, save_strategy="no", learning_rate=1e-3, logging_steps=1,
        **settings,
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": ROW, "labels": ROW}] * 2)
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    return make_trainer(get_method("sft"), config, model, tokenizer, train=rows, held_out=None)


@pytest.mark.parametrize("model_type", DENSE)
def test_a_model_without_a_router_trains_by_the_loss_of_its_tokens(model_type: str, tmp_path: Path):
    model = model_of(model_type, **DENSE[model_type])
    own, coefficient = model(input_ids=torch.tensor([ROW]), use_cache=False).logits, model.config.router_aux_loss_coef
    assert not has_router(model)
    assert not has_router_loss(model, model.config)  # so that packing is not refused for it
    assert coefficient > 0
    trainer = sft(model, tmp_path)
    trainer.train()
    wanted = torch.nn.functional.cross_entropy(own[0, :-1], torch.tensor(ROW[1:]))
    assert trainer.state.log_history[0]["loss"] == pytest.approx(wanted.item(), rel=1e-3)
    assert model.config.router_aux_loss_coef == coefficient  # saved as it came


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_mixture_has_a_router(model_type: str):
    assert has_router(model_of(model_type, **MIXTURES[model_type]))


def test_a_router_keeps_its_loss(tmp_path: Path):
    model = model_of("granitemoehybrid")
    assert has_router_loss(model, model.config)
    assert sft(model, tmp_path).aux_loss_enabled


def test_a_weight_for_the_loss_of_no_router_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="this model has no experts"):
        sft(model_of("doge"), tmp_path, router_aux_loss_coef=0.1)


def test_preferences_ask_no_router_that_is_not_there(tmp_path: Path):
    config = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    rows = Dataset.from_list([{"prompt_ids": ROW, "chosen_ids": ROW, "rejected_ids": ROW[::-1]}] * 2)
    tokenizer = AutoTokenizer.from_pretrained(tiny.MODEL_DIR)
    model = model_of("doge")
    reference = model_of("doge")
    trainer = make_trainer(get_method("dpo"), config, model, tokenizer, train=rows, held_out=None, reference=reference)
    assert not trainer.aux_loss_enabled
