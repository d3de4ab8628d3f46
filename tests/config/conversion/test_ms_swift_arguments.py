"""An args.json of ms-swift holds all of its arguments: what nobody set counts for nothing, and the rest is brought."""

from __future__ import annotations

import json

import pytest

from ftcli.cli.jobs.imported import imported
from ftcli.config.conversion import Conversion
from tests.config.conversion.test_conversion import entry, recipe_of, written

# Arguments of a run of 4.6.0, as it wrote them.
WHOLE = {
    "model": "Qwen/Qwen2.5-0.5B-Instruct",
    "dataset": ["tatsu-lab/alpaca"],
    "val_dataset": [],
    "adapters": [],
    "new_special_tokens": [],
    "columns": {},
    "callbacks": [],
    "reward_funcs": [],
    "modules_to_save": [],
    "fsdp": [],
    "deepspeed": None,
    "tuner_type": "lora",
    "lora_rank": 8,
    "lora_alpha": 32.0,
    "learning_rate": 0.0003,
    "max_length": 1024,
    "galore_rank": 128,
    "lisa_step_interval": 20,
    "vera_rank": 256,
    "train_dataloader_shuffle": False,
    "average_tokens_across_devices": True,
    "log_on_each_node": True,
    "use_chat_template": True,
    "loss_scale": "default",
    "rank": -1,
    "swift_version": "4.6.0",
    "training_args": "Seq2SeqTrainingArguments(…)",
}


def arguments(**more: object) -> Conversion:
    """The recipe of a run with these arguments, which passes check and plan."""
    found = imported(written(json.dumps({**WHOLE, **more}), "args.json"))
    assert not found.problems
    return found.conversion


def test_what_a_run_was_given_is_brought(here):
    recipe = recipe_of(arguments())
    assert recipe["defaults"] == {"method": "sft", "peft": "lora"}
    assert recipe["model"] == {"name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}
    assert recipe["data"]["path"] == "tatsu-lab/alpaca"
    assert recipe["peft"]["lora_alpha"] == 32  # which ms-swift writes as 32.0, and ftcli takes as a whole number
    assert recipe["train"]["learning_rate"] == 0.0003


@pytest.mark.parametrize("key", ["galore_rank", "lisa_step_interval", "vera_rank", "average_tokens_across_devices"])
def test_what_nobody_set_is_as_if_it_were_not_there(key, here):
    assert entry(arguments(), key) == ("mapped", "", "its default, as if it were not there")


@pytest.mark.parametrize(
    "key", ["val_dataset", "adapters", "callbacks", "reward_funcs", "fsdp", "rank", "training_args"]
)
def test_what_is_empty_or_no_argument_is_no_loss(key, here):
    found = arguments()
    assert entry(found, key)[0] == "mapped"
    assert not found.account.unsupported


def test_what_somebody_set_and_ftcli_does_not_have_is_said(here):
    assert entry(arguments(), "train_dataloader_shuffle")[0] == "not_carried"  # true by itself
    assert entry(arguments(galore_rank=64), "galore_rank")[0] == "not_carried"


def test_the_method_is_that_of_the_command_which_the_file_does_not_name(here):
    assert arguments(use_chat_template=False, loss_scale="all").draft.choices["method"] == "pretrain"
    reward = arguments(rlhf_type="rm", task_type="seq_cls", num_labels=1)
    assert reward.draft.choices["method"] == "reward"
    assert not reward.account.unsupported
