"""What torchtune's newer recipes bring: rows that are measured, rewards, and keys that others refer to."""

from __future__ import annotations

import pytest

from ftcli.cli.jobs.imported import imported
from ftcli.config.conversion import convert
from tests.config.conversion import configurations
from tests.config.conversion.test_conversion import entry, recipe_of, written

NAME, TEXT = configurations.FILES["torchtune"]
MEASURED = """
dataset_val:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  split: train[95%:]
batch_size_val: 4
run_val_every_n_steps: 50
"""
GROUPS = """
name: ours
output_dir: /tmp/${name}
model:
  _component_: torchtune.models.llama3_2.llama3_2_3b
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/Llama-3.2-3B
dataset:
  _component_: torchtune.datasets.chat_dataset
  source: org/questions
batch_size: 2
grpo_samples: 8
ppo_epochs: 1
temperature: 1.0
max_generated_tokens: 512
optimizer:
  _component_: torch.optim.AdamW
  lr: 1e-5
loss:
  _component_: torchtune.dev.grpo.loss.GRPOSimpleLoss
  kl_coeff: 0.01
  epsilon: 0.2
"""


def with_measuring(text: str) -> str:
    """A configuration that trains on the part of its set that is not measured."""
    return TEXT.replace("  packed: False\n", "  packed: False\n  split: train[:95%]\n") + text


def test_rows_that_are_measured_are_a_share_of_the_same_set(here):
    found = imported(written(with_measuring(MEASURED), NAME))
    recipe = recipe_of(found.conversion)
    assert recipe["data"]["path"] == "yahma/alpaca-cleaned"
    assert recipe["data"]["eval_share"] == pytest.approx(0.05)
    assert recipe["train"]["eval_steps"] == 50
    assert recipe["train"]["per_device_eval_batch_size"] == 4
    assert not found.problems


def test_rows_that_torchtune_never_measures_are_said_to_have_no_effect_there(here):
    found = convert(written(with_measuring(MEASURED.replace(" 50", " null")), NAME))
    for key in ("dataset_val.split", "batch_size_val"):
        which, _, why = entry(found, key)
        assert which == "silent"
        assert "run_val_every_n_steps is not set" in why
    assert "eval_share" not in recipe_of(found)["data"]


def test_groups_of_answers_are_grpo_whose_rewards_are_asked_for(here):
    found = convert(written(GROUPS, "grpo.yaml"), "torchtune")
    recipe = recipe_of(found)
    assert recipe["defaults"]["method"] == "grpo"
    # 2 prompts of 8 answers each are 16 rows a step here
    assert recipe["train"]["per_device_train_batch_size"] == 16
    own = {"num_generations": 8, "max_completion_length": 512, "beta": 0.01, "epsilon": 0.2, "num_iterations": 1}
    assert {key: recipe["method"][key] for key in own} == own
    assert any("rewards are code" in each for each in found.account.unsupported)


def test_a_key_that_others_refer_to_is_not_said_to_be_ignored(here):
    which, _, why = entry(convert(written(GROUPS, "grpo.yaml"), "torchtune"), "name")
    assert which == "changed"
    assert "other keys refer to it" in why
