"""Training defaults: what a run derives from the declarations, and that groups and recipes agree with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ftcli.build.resolve import described, run_of, spec_of
from ftcli.config.compose import Request
from ftcli.config.recipe_file import read
from ftcli.core import assets
from ftcli.core.strict_yaml import load
from ftcli.methods import all_methods, all_pipelines
from ftcli.methods.training_defaults import SHARED
from ftcli.peft_methods import PEFT_METHODS
from ftcli.plan.outlook import num_steps
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.settings.batch_plan import ACCUMULATION, SIZE, train_value
from ftcli.settings.library_fields import TRAINING_ARGUMENTS, value_of
from ftcli.settings.run_spec import RunSpec
from tools.recipe_tables import head_of

CARD = ("hardware.gpu=h200",)


def resolved(*overrides: str) -> ResolvedRun:
    return described(Request(overrides=overrides))


def spec(*overrides: str) -> RunSpec:
    return resolved(*overrides).spec


# --- the declarations themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_methods())
def test_every_default_of_a_method_has_a_source_and_is_what_its_group_file_and_its_config_say(name):
    method = all_methods()[name]
    declared = method.training
    of_training = [*declared.settings.values(), declared.batch, *declared.full.bands.values()]
    of_training += declared.adapter.bands.values()
    given = {key: value for key, value in load(assets.choices("method")[name]).data.items() if key != "name"}
    numbers = {key for key, value in given.items() if value is not None}
    assert numbers <= method.sources.keys()  # what the file sets is looked up
    for field, default in method.sources.items():
        found = value_of(method.config, {**method.defaults, **given}, field)
        assert found == default.value, field
    for default in (*of_training, *method.sources.values()):
        assert default.source


@pytest.mark.parametrize("name", PEFT_METHODS)
def test_every_default_of_an_adapter_has_a_source_and_is_what_its_group_file_says(name):
    peft = PEFT_METHODS[name]
    given = {key: value for key, value in load(assets.choices("peft")[name]).data.items() if key != "name"}
    unsaid = {"target_modules", "prefix_projection", "num_layers", "save_projection", "encoder_reparameterization_type"}
    assert given.keys() - unsaid <= peft.sources.keys()
    for field, default in peft.sources.items():
        assert {**peft.defaults, **given}.get(field, default.value) == default.value, field
        assert default.source
    assert peft.rate_factor.source


def test_what_all_methods_share_is_what_a_run_has():
    train = spec("method=sft", "model=qwen", "hardware=cpu").train
    numbers = {name: each.value for name, each in SHARED.items() if name != "optim"}  # which the library computes
    assert {name: train_value(train, name) for name in numbers} == numbers


@pytest.mark.parametrize("name", all_methods())
def test_a_larger_model_never_has_a_higher_rate_and_an_adapter_has_a_multiple_of_it(name):
    declared = all_methods()[name].training
    for bands in (declared.full, declared.adapter):
        values = [default.value for default in bands.bands.values()]
        assert values == sorted(values, reverse=True)
    for billions in (0.5, 1.7, 8, 14, 70):
        size = round(billions * 1e9)
        assert 4 <= declared.adapter.at(size).value / declared.full.at(size).value <= 50.001


# --- what a run gets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("method=sft model=qwen-0.6b", 5e-5),
        ("method=sft model=smollm-3b", 2e-5),
        ("method=sft model=llama-70b", 2e-6),
        ("method=sft model=qwen-0.6b peft=lora", 5e-4),
        ("method=sft model=qwen peft=lora", 2e-4),
        ("method=sft model=qwen-14b peft=qlora", 2e-4),
        ("method=sft model=llama-70b peft=qlora", 1e-4),
        ("method=sft model=qwen peft=pissa", 2e-5),  # a tenth of LoRA's, as its authors have it
        ("method=sft model=qwen peft=loraplus", 5e-5),  # a quarter, and B at sixteen times that
        ("method=sft model=qwen peft=vera", 2e-3),
        ("method=sft model=qwen peft=freeze", 2e-5),  # the weights themselves
        ("method=dpo model=qwen peft=lora", 5e-6),
        ("method=dpo model=qwen", 5e-7),
        ("method=ipo model=qwen peft=lora", 5e-6),
        ("method=ppo model=qwen-0.6b", 1e-6),
        ("method=sft model.name_or_path=someone/unheard-of peft=lora", 2e-4),  # taken for 8B
        ("method=sft model=tiny peft=lora", 3e-3),  # the built-in model's own
    ],
)
def test_the_rate_follows_method_size_and_adapter(words, rate):
    assert spec(*words.split(" "), "hardware=cpu").train["learning_rate"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("words", "per_device", "accumulation", "processes"),
    [
        ("method=sft", 8, 2, 1),  # 16 rows
        ("method=sft train.per_device_train_batch_size=2", 2, 8, 1),
        ("method=sft train.gradient_accumulation_steps=4", 4, 4, 1),
        ("method=sft train.per_device_train_batch_size=2 train.gradient_accumulation_steps=3", 2, 3, 1),
        ("method=sft train.per_device_train_batch_size=32", 32, 1, 1),
        ("method=sft hardware=multi_gpu hardware.num_processes=4", 4, 1, 4),
        ("method=sft hardware=multi_gpu hardware.num_processes=64", 1, 1, 64),  # no fewer than one each
        ("method=dpo", 8, 4, 1),
        ("method=pretrain hardware=multi_gpu hardware.num_processes=4", 8, 2, 4),
        ("method=grpo", 8, 8, 1),  # 8 prompts × 8 answers
        ("method=grpo method.num_generations=4", 8, 4, 1),  # 8 prompts × 4
        ("method=grpo method.generation_batch_size=32", 8, 4, 1),
        ("method=grpo hardware=multi_gpu hardware.num_processes=8", 8, 1, 8),
        ("method=rloo", 8, 8, 1),  # 16 prompts × 4
        ("method=ppo", 8, 8, 1),
        ("method=kto train.gradient_accumulation_steps=64", 2, 64, 1),  # answers are compared within a pass
        ("method=sft train.optim=galore_adamw_layerwise", 16, 1, 1),  # which cannot accumulate
    ],
)
def test_the_usual_batch_is_met_and_what_was_set_of_it_is_kept(words, per_device, accumulation, processes):
    batch = resolved("model=qwen-0.6b", *CARD, *words.split(" ")).batch
    assert (batch.per_device, batch.accumulation, batch.processes) == (per_device, accumulation, processes)


def test_groups_of_answers_stay_whole_where_the_batch_cannot_be_met():
    run = resolved("method=grpo", "model=qwen-0.6b", *CARD, "hardware=multi_gpu", "hardware.num_processes=3")
    assert run.batch.rows % 8 == 0
    assert run.batch.rows == 72
    [why] = [note.why for note in run.spec.notes if note.key == f"train.{ACCUMULATION}"]
    assert "72 answers a step on 3 processes; 64 are usual for grpo" in why


def test_a_batch_that_cannot_be_met_is_the_nearest_and_says_so():
    run = resolved("method=sft", "model=qwen-0.6b", *CARD, "hardware=multi_gpu", "hardware.num_processes=3")
    assert (run.batch.per_device, run.batch.accumulation, run.batch.rows) == (5, 1, 15)
    assert "15 rows a step on 3 processes; 16 are usual" in next(
        note.why for note in run.spec.notes if note.key == f"train.{SIZE}"
    )


def test_a_derived_value_is_noted_with_what_it_is_usual_for_and_one_that_was_set_is_not():
    found = spec("method=grpo", "model=qwen-0.6b", "hardware=cpu", "train.num_train_epochs=2")
    notes = {note.key: note.why for note in found.notes}
    assert notes["train.learning_rate"] == "usual for grpo with full fine-tuning and 0.6B parameters"
    assert notes[f"train.{SIZE}"] == "64 answers a step, 8 to each of 8 prompts, usual for grpo"
    assert "train.num_train_epochs" not in notes
    assert found.train["num_train_epochs"] == 2


def test_a_schedule_without_warm_up_gets_none():
    found = spec("method=sft", "model=qwen-0.6b", "hardware=cpu", "train.lr_scheduler_type=constant").train
    assert found["warmup_steps"] == 0
    assert spec("method=dpo", "model=qwen-0.6b", "hardware=cpu").train["warmup_steps"] == 0.1


@pytest.mark.parametrize(
    ("words", "optim"),
    [
        ("peft=qlora", "paged_adamw_32bit"),
        ("peft=lora quantisation=int8", "paged_adamw_32bit"),
        ("peft=qlora train.optim=adamw_8bit", "adamw_8bit"),
        ("peft=lora", None),
        ("peft=qlora hardware=fsdp hardware.num_processes=2", None),  # whose shards bitsandbytes does not page
        ("peft=qlora hardware=cpu", None),
    ],
)
def test_the_optimiser_of_a_quantised_base_is_paged_on_a_gpu(words, optim):
    card = () if "hardware=cpu" in words else CARD
    assert spec("method=sft", "model=qwen", *card, *words.split(" ")).train.get("optim") == optim


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("model=qwen-0.6b", 1e-5),  # the policy's 1e-6
        ("model=qwen-0.6b peft=lora", 1e-4),
        ("model=llama-70b", 1e-5),  # ten times 1e-7 would be too little for a new head
        ("model=qwen-0.6b train.learning_rate=3e-6", 3e-5),
        ("model=qwen-0.6b method.value_learning_rate=2e-6", 2e-6),
    ],
)
def test_a_critic_learns_ten_times_as_fast_as_the_policy(words, rate):
    found = spec("method=ppo", "hardware=cpu", *words.split(" "))
    assert found.method["value_learning_rate"] == pytest.approx(rate)


def test_the_plan_counts_the_steps_of_the_usual_training():
    # 640 prompts, 8 a step, once; 640 rows of 16 a step, twice
    assert num_steps(resolved("method=grpo", "model=qwen-0.6b", "hardware=cpu"), 640) == 80
    unpacked = ("method=sft", "model=qwen-0.6b", "hardware=cpu", "method.packing=false")
    assert num_steps(resolved(*unpacked), 640) == 80


# --- recipes ---------------------------------------------------------------------------------------------------------

WHY_NOT = {
    ("demo", "train.num_train_epochs"): "the first run of all takes half a minute",
    ("demo", "batch"): "packed blocks of about two rows each",
    ("demo", "train.warmup_steps"): "it shows how a share is written",
    ("dpo-after-sft", "train.num_train_epochs"): "polite and rude are separated within half a pass",
    ("dpo-after-sft", "batch"): "twice the built-in model's own: a second run in seconds",
    ("ia3-few-examples-8b", "train.num_train_epochs"): "fifty examples are few, and so few parameters hardly memorise",
    ("ia3-few-examples-8b", "batch"): "T-Few: batches of 8",
    ("ipo-lora-8b", "train.num_train_epochs"): "few pairs, seen several times, are what it is for",
    ("sft-long-8b", "batch"): "4 blocks of 32,768 tokens are 131,072",
    ("sft-reasoning-8b", "peft.r"): "reasoning is more to learn than manners",
    ("sft-reasoning-8b", "peft.lora_alpha"): "twice r",
    ("instruct-small-cpu", "train.num_train_epochs"): "a CPU pays for a second pass",
    ("instruct-small-cpu", "batch"): "500 short rows are few blocks",
    ("sft-qlora-14b", "train.optim"): "a 16 GB card: a quarter of the state",
    ("tiny-pretrain", "train.num_train_epochs"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "train.lr_scheduler_type"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "train.warmup_steps"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "train.learning_rate"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "train.weight_decay"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "train.adam_beta2"): "it makes the built-in model, from random weights",
    ("tiny-pretrain", "batch"): "it makes the built-in model, from random weights",
}
"""Where a recipe's value is not the default of its method, adapter and model, and why."""
LOCAL = {"demo", "dpo-after-sft", "tiny-pretrain", "instruct-small-cpu"}


def recipe_specs(name: str) -> Iterator[tuple[str, dict[str, Any], str, tuple[str, ...]]]:
    """The values that a recipe writes: the words that choose their run, the values, and where they stand."""
    recipe = read(assets.recipes()[name])
    choices = dict(recipe.choices)
    pipeline = all_pipelines().get(choices.get("method", ""))
    stages = [(f"stages.{each.name}.", each.method) for each in pipeline.stages if each.method] if pipeline else []
    for place, method in stages or [("", choices["method"])]:
        part = recipe.stages.get(place.split(".")[1]) if place else None
        own = part.values if part else {}
        written = {
            group: {**recipe.values.get(group, {}), **own.get(group, {})} for group in ("train", "method", "peft")
        }
        words = (f"method={method}", *(f"{group}={choice}" for group, choice in choices.items() if group != "method"))
        yield method, written, place, words


def compared(name: str) -> Iterator[tuple[str, Any, Any]]:
    """What a recipe writes of the table of defaults: the setting, its value, and the default without it."""
    for method, written, place, words in recipe_specs(name):
        card = () if name in LOCAL else CARD
        declared = all_methods()[method]
        usual = spec(*words, *card)
        peft = PEFT_METHODS.get(str(usual.peft["name"]))
        looked_up = {
            "train": {"learning_rate", *declared.training.settings, *SHARED},
            "method": declared.sources,
            "peft": peft.sources if peft else {},
        }
        for group, fields in looked_up.items():
            for key in written[group].keys() & set(fields):
                config = {"train": TRAINING_ARGUMENTS, "method": declared.config, "peft": peft.config if peft else ""}
                default = value_of(config[group], getattr(usual, group), key)
                yield f"{place}{group}.{key}", written[group][key], default
        sizes = {key: value for key, value in written["train"].items() if key in (SIZE, ACCUMULATION)}
        if sizes:
            sized = resolved(*words, *card, *(f"train.{key}={value}" for key, value in sizes.items()))
            yield f"{place}batch", sized.batch.rows, replace(sized, spec=usual).batch.rows


@pytest.mark.parametrize("name", assets.recipes())
def test_a_recipe_has_the_defaults_or_a_reason(name):
    different = {key for key, written, default in compared(name) if written != default}
    if head_of(assets.recipes()[name]).source:  # its values are those that others published
        assert different
        return
    assert different == {key for recipe, key in WHY_NOT if recipe == name}


def test_recipes_are_compared_at_all():
    found = [key for name in assets.recipes() for key, *_ in compared(name)]
    assert len(found) > 15
    assert "stages.ppo.batch" in found


# --- a run that starts from another ----------------------------------------------------------------------------------


def test_a_run_from_another_trains_as_it_did_until_something_else_trains(tmp_path):
    from ftcli.build.resume import spec_from

    first = spec_of(Request(overrides=("method=sft", "peft=lora", "model=tiny", "hardware=cpu")))
    other = {**first.train, "learning_rate": 1.25e-4, "num_train_epochs": 5}  # as another version had them
    (tmp_path / "spec.json").write_text(replace(first, train=other).to_json(), encoding="utf-8")
    again = spec_from(tmp_path, Request(overrides=("train.max_steps=3",))).train
    assert (again["learning_rate"], again["num_train_epochs"]) == (1.25e-4, 5)
    noted = {note.key: note.why for note in spec_from(tmp_path, Request(overrides=("train.max_steps=3",))).notes}
    assert noted["train.learning_rate"] == "as in the run that it starts from"
    assert noted["train.warmup_steps"] == "the built-in model's own"  # which are the same
    full = spec_from(tmp_path, Request(overrides=("peft=none",))).train
    assert (full["learning_rate"], full["num_train_epochs"]) == (1e-3, 3)


def test_a_critic_of_an_earlier_run_keeps_its_rate(tmp_path):
    from ftcli.build.resume import spec_from

    words = ("method=ppo", "model=tiny", "hardware=cpu", "data.path=builtin:prompts")
    first = run_of(Request(overrides=words)).spec
    then = {key: value for key, value in first.method.items() if key != "value_learning_rate"}  # it had none of its own
    (tmp_path / "spec.json").write_text(replace(first, method=then).to_json(), encoding="utf-8")
    again = spec_from(tmp_path, Request(overrides=("train.max_steps=3",)))
    assert again.method["value_learning_rate"] == first.train["learning_rate"]
