"""What merging an adapter says of the merged model."""

from __future__ import annotations

import pytest

from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.load import load_tokenizer
from ftcli.worker.models.merge import PROBE, merge
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA


def test_a_merged_model_is_compared_with_its_adapter_on_text(sft_file, make_spec, new_run, tmp_path):
    run = new_run(make_spec(sft_file, peft=LORA), "run")
    train(run)
    tokens = load_tokenizer(ModelSettings(name_or_path=str(run)))(PROBE)["input_ids"]
    exact = merge({"model": str(run), "to": str(tmp_path / "exact"), "dtype": "float32"})
    assert exact["largest_difference"] < 1e-4
    assert (exact["same_next"], exact["tokens"]) == (len(tokens), len(tokens))
    rounded = merge({"model": str(run), "to": str(tmp_path / "rounded"), "dtype": "bfloat16"})
    assert rounded["largest_difference"] > exact["largest_difference"]
    assert 0 < rounded["same_next"] <= len(tokens)


def test_a_merged_reward_model_has_no_next_tokens_to_compare(dpo_file, make_spec, new_run, tmp_path):
    run = new_run(make_spec(dpo_file, method={"name": "reward"}, peft=LORA, train={"max_steps": 1}), "run")
    train(run)
    merged = merge({"model": str(run), "to": str(tmp_path / "merged")})
    assert merged["same_next"] is None
    assert merged["largest_difference"] == pytest.approx(0, abs=1e-4)
