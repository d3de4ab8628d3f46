"""What each process holds of a sharded model: read from the run's settings, and worked by hand.

The bytes of two real processes are held in tests/whole/test_sharded_memory.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.models.parameters import num_parameters
from ftcli.plan.memory import MemoryEstimate
from ftcli.plan.outlook import plan
from ftcli.plan.sharded_memory import Sharding, checkpoints, sharding_of, sizes_of
from tests.plan.test_memory import LLAMA_2, shape_named


def read(train: dict[str, Any], *, accumulates: bool = False) -> Sharding:
    return sharding_of(train, 8, 4096, accumulates=accumulates)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, {"library": "none", "stage": 0, "processes": 8}),
        ({"fsdp": True}, {"library": "fsdp", "stage": 3, "processes": 8, "reshards": True, "offloads_weights": False}),
        # the older words for the same, and names with the prefix that they may have
        ({"fsdp": "full_shard auto_wrap offload"}, {"offloads_weights": True, "offloads_optimiser": True}),
        ({"fsdp": ["shard_grad_op"]}, {"reshards": False}),
        ({"fsdp": True, "fsdp_config": {"fsdp_cpu_offload": True}}, {"offloads_weights": True}),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": False}}, {"reshards": False}),
        # copies of a model that each four processes share
        ({"fsdp": True, "parallelism_config": {"dp_shard_size": 4, "dp_replicate_size": 2}}, {"processes": 4}),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, {"library": "zero", "stage": 1, "live_elements": 0}),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, {"stage": 2, "bucket_elements": 500_000_000}),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto"}}},
         {"bucket_elements": 2 * 4096**2}),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "contiguous_gradients": False}}}, {"bucket_elements": 0}),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}},
         {"offloads_optimiser": True, "offloads_weights": False}),
        ({"deepspeed": {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}},
         {"offloads_weights": True}),
        ({"deepspeed": {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1e8,
                                              "stage3_prefetch_bucket_size": 0}}}, {"live_elements": 100_000_000}),
        ({"deepspeed": {}}, {"library": "none"}),
    ],
)  # fmt: skip
def test_the_settings_of_fsdp_and_deepspeed_say_what_is_shared_out(train, expected):
    found = read(train)
    assert {name: getattr(found, name) for name in expected} == expected


def test_deepspeed_s_settings_may_be_in_a_file(tmp_path: Path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    assert read({"deepspeed": str(file)}) == read({"deepspeed": {"zero_optimization": {"stage": 3}}})


def test_fsdp_may_checkpoint_activations_by_itself():
    own = {"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}
    assert checkpoints(own)
    assert checkpoints({"gradient_checkpointing": True})
    assert not checkpoints({"fsdp_config": {"activation_checkpointing": True}})  # without FSDP nobody reads it


def test_gradients_stay_whole_while_fsdp_accumulates_them():
    assert not read({"fsdp": True}).whole_gradients
    assert read({"fsdp": True}, accumulates=True).whole_gradients
    synced = {"fsdp": True, "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    assert not read(synced, accumulates=True).whole_gradients


def test_the_parts_that_are_gathered_together_are_the_layers_and_the_ends():
    total = num_parameters(LLAMA_2)
    assert total is not None
    # a layer: 4 x 4096 x 4096, 3 x 4096 x 11008 and two norms; the ends: embedding, head and the last norm
    layer = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert sizes_of(LLAMA_2, total) == (total, layer, 2 * 32000 * 4096 + 4096)
    assert 32 * layer + 2 * 32000 * 4096 + 4096 == total


SEVENTY = (
    "model=llama-70b", "hardware=multi_gpu", "hardware.num_processes=8", "hardware.gpu=h200",
    "train.per_device_train_batch_size=1", "data.max_length_tokens=2048", "train.gradient_accumulation_steps=1",
)  # fmt: skip
TOTAL, LAYER = 70_553_706_496, 64 * 128 * 8192 * 2 + 8 * 128 * 8192 * 2 + 3 * 8192 * 28672 + 2 * 8192
ENDS = 2 * 128256 * 8192 + 8192


def memory(*overrides: str) -> MemoryEstimate:
    found = plan(run_of(Request(overrides=(*SEVENTY, *overrides)))).memory
    assert found is not None
    return found


def test_seventy_billion_parameters_on_eight_gpus_are_an_eighth_each():
    found = memory("train.fsdp=true")
    eighth = TOTAL * 4 / 8 / 2**30  # float32 masters: 32.9 GiB
    assert num_parameters(shape_named("llama-70b")) == TOTAL
    assert found["weights"] == found["gradients"] == pytest.approx(eighth)
    assert found["optimiser"] == pytest.approx(2 * eighth)
    # the ends and two layers in bf16, and as much for the gradients of two layers
    assert found["gathered"] == pytest.approx(2 * (ENDS + 4 * LAYER) / 2**30)
    assert found["autocast"] == found["buffers"] == 0
    accumulated = memory("train.fsdp=true", "train.gradient_accumulation_steps=4")
    assert accumulated["gradients"] == pytest.approx(TOTAL * 2 / 2**30)
    offloaded = memory("train.fsdp=true", "train.fsdp_config={cpu_offload: true}")
    assert offloaded["weights"] == offloaded["gradients"] == offloaded["optimiser"] == 0
    assert offloaded["gathered"] == found["gathered"]


def zero(stage: int, more: str = "") -> MemoryEstimate:
    whole = ", stage3_gather_16bit_weights_on_model_save: true" if stage == 3 else ""
    return memory(f"train.deepspeed={{zero_optimization: {{stage: {stage}, reduce_bucket_size: 1000{whole}{more}}}}}")


def test_each_stage_of_zero_shares_out_one_thing_more():
    whole, eighth = TOTAL * 2 / 2**30, TOTAL / 8 / 2**30
    one, two, three = (zero(stage) for stage in (1, 2, 3))
    # weights in bf16, and float32 masters of an eighth
    assert one["weights"] == two["weights"] == pytest.approx(whole + 4 * eighth)
    assert three["weights"] == pytest.approx((2 + 4) * eighth)
    assert one["optimiser"] == two["optimiser"] == three["optimiser"] == pytest.approx(8 * eighth)
    assert one["gradients"] == pytest.approx(whole)
    assert two["gradients"] == three["gradients"] == pytest.approx(2 * eighth)
    # a bucket, and the gradients of a process's part in float32 for the step
    assert two["buffers"] == pytest.approx(4 * eighth + 2000 / 2**30)
    assert three["buffers"] == pytest.approx((4 * 10**9 + 2000) / 2**30)  # one group of 10**9 at a time
    # 10**9 live parameters and 5 * 10**7 that are fetched ahead
    assert three["gathered"] == pytest.approx(2 * 1.05e9 / 2**30)
    offloaded = zero(3, ", offload_optimizer: {device: cpu}, offload_param: {device: cpu}")
    assert offloaded["weights"] == offloaded["optimiser"] == offloaded["gradients"] == 0


@pytest.mark.parametrize(
    ("profile", "settings"),
    [
        ("fsdp", {"library": "fsdp", "offloads_weights": False}),
        ("fsdp_offload", {"library": "fsdp", "offloads_weights": True}),
        ("zero2", {"library": "zero", "stage": 2}),
        ("zero3", {"library": "zero", "stage": 3, "offloads_weights": False}),
        ("zero3_offload", {"library": "zero", "stage": 3, "offloads_weights": True, "offloads_optimiser": True}),
    ],
)
def test_a_hardware_profile_is_planned_by_the_settings_that_it_brings(profile, settings):
    own = [each for each in SEVENTY if not each.startswith("hardware=")]
    run = run_of(Request(overrides=(*own, f"hardware={profile}")))
    found = sharding_of(run.spec.train, 8, 8192, accumulates=False)
    assert {name: getattr(found, name) for name in settings} == settings
    memory = plan(run).memory
    assert memory is not None
    assert memory["weights"] < TOTAL * (2 if profile == "zero2" else 1) * 2 / 2**30 + 4 * TOTAL / 8 / 2**30


def test_a_reference_is_shared_out_as_the_policy_is():
    dpo = ("method=dpo",)
    shared, copies = memory(*dpo, "train.fsdp=true"), memory(*dpo)
    assert copies["reference"] == pytest.approx(TOTAL * 2 / 2**30)
    assert shared["reference"] == pytest.approx(TOTAL * 2 / 8 / 2**30)
