"""What a hardware profile brings of sharding, and what contradicts it."""

from __future__ import annotations

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.declarations import declarations
from ftcli.launch.profile import PROCESSES_ON_CPU
from ftcli.methods import all_methods

SHARDS = {name: each.train for name, each in declarations("ftcli.launch.profiles", "PROFILE").items() if each.train}
CPU = "hardware.device=cpu"
PLANNED = ("hardware.gpu=h100", "hardware.num_processes=2")
"""Cards that are not here, for the profile that needs them."""


def needs_deepspeed(profile: str) -> None:
    if "deepspeed" in SHARDS[profile]:
        pytest.importorskip("deepspeed")


@pytest.mark.parametrize("profile", SHARDS)
def test_a_profile_brings_its_sharding_with_a_note(profile):
    needs_deepspeed(profile)
    place = PLANNED if profile == "fsdp_offload" else (CPU,)
    spec = spec_of(Request(overrides=(f"hardware={profile}", *place, "run.dir=r")))
    for key, value in SHARDS[profile].items():
        assert spec.train[key] == value
        assert any(note.key == f"train.{key}" and note.why == f"hardware.type={profile}" for note in spec.notes)
    assert spec.launch.num_processes == PROCESSES_ON_CPU
    assert (spec.launch.device == "cpu") == (place == (CPU,))
    # what the user wrote is stored as it was written, so that another profile can be laid over it
    assert not {"fsdp", "deepspeed"} & spec.tree["train"].keys()


def test_a_user_s_entries_are_laid_over_those_of_the_profile():
    config = "train.fsdp_config={activation_checkpointing: true}"
    spec = spec_of(Request(overrides=("hardware=fsdp_offload", *PLANNED, config, "run.dir=r")))
    assert spec.train["fsdp_config"] == {"cpu_offload": True, "activation_checkpointing": True}


def test_an_entry_of_deepspeed_keeps_the_rest_of_the_profile():
    pytest.importorskip("deepspeed")
    deeper = "train.deepspeed={zero_optimization: {reduce_bucket_size: 1000}}"
    zero = spec_of(Request(overrides=("hardware=zero3", CPU, deeper, "run.dir=r"))).train["deepspeed"]
    assert zero["zero_optimization"] == {
        "stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "reduce_bucket_size": 1000
    }  # fmt: skip
    assert zero["gradient_clipping"] == "auto"


@pytest.mark.parametrize(
    ("overrides", "place", "what"),
    [
        (["hardware=fsdp", "train.fsdp=false"], "train.fsdp=false", "hardware.type=fsdp means"),
        (["hardware=fsdp_offload", "train.fsdp_config={cpu_offload: false}"], "train.fsdp_config",
            "train.fsdp_config.cpu_offload=False"),
        (["hardware=fsdp", "train.deepspeed={zero_optimization: {stage: 2}}"], "train.deepspeed", "another way"),
        (["hardware=zero2", "train.fsdp=true"], "train.fsdp=true", "another way"),
        (["hardware=zero2", "train.deepspeed={zero_optimization: {stage: 3}}"], "train.deepspeed",
            "train.deepspeed.zero_optimization.stage=3"),
        (["hardware=zero2", "hardware.num_processes=1"], "hardware.num_processes=1", "this run has one"),
        (["hardware=fsdp", "hardware.num_processes=1"], "hardware.num_processes=1", "this run has one"),
        (["hardware=gpu", CPU], CPU, "whatever hardware.device says"),
        (["hardware=cpu", "hardware.num_processes=2", "train.deepspeed={zero_optimization: {stage: 3}}"],
            "train.deepspeed", "in pieces"),
    ],
)  # fmt: skip
def test_what_contradicts_a_profile_is_refused_at_its_place(overrides, place, what, problems):
    if any("deepspeed" in word or "zero" in word for word in overrides):
        pytest.importorskip("deepspeed")
    on_cpu = [] if CPU in overrides or "hardware=cpu" in overrides else [CPU]
    [found] = problems(*overrides, *on_cpu)
    assert found.startswith(place)
    assert what in found
    assert "fix: " in found


@pytest.mark.parametrize("profile", SHARDS)
@pytest.mark.parametrize("method", all_methods())
def test_every_method_is_checked_in_every_profile(method, profile, problems):
    needs_deepspeed(profile)
    rewards = ["method.rewards={ended: 1}"] if all_methods()[method].rewarded else []
    teacher = ["method.teacher_model=builtin:tiny"] if "teacher" in all_methods()[method].roles else []
    found = problems(f"method={method}", *rewards, *teacher, f"hardware={profile}", CPU)
    assert ["pinned" in each for each in found] == [True] * (profile == "fsdp_offload")  # which needs a GPU
