"""Trainable parameters, counted without torch: against PEFT on small models, against the papers on their own."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, LlamaConfig, OPTConfig

import ftcli.worker.tuners
from ftcli.models.families import FAMILIES
from ftcli.models.parameters import num_parameters
from ftcli.models.read_config import shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.peft_methods import PEFT_METHODS, peft_method
from ftcli.worker.training.expert_targets import reach_experts
from tests.models.test_shapes import SMALL, VARIANTS, on_meta, shape_of, small_config

DENSE = [name for name in VARIANTS if not VARIANTS[name].get("kv_lora_rank") and name != "gpt_oss"]
LINEAR = {"llama": ["q_proj", "v_proj"], "phi": ["q_proj", "fc2"], "gpt2": ["c_attn", "mlp.c_proj"], "opt": ["fc1"]}


def trains(config: Any, adapter: Any) -> int:
    """What the installed libraries train under a PEFT config, counted on the meta device."""
    model = on_meta(config)
    reach_experts(adapter, model)
    with torch.device("meta"):
        wrapped = peft.get_peft_model(model, adapter)
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def real(config: Any, settings: dict[str, Any]) -> int:
    """What the installed libraries train under the settings of a run."""
    method = peft_method(settings)
    assert method is not None
    module, _, name = method.config.partition(":")
    config_class = getattr(__import__(module, fromlist=[name]), name)
    values = method.config_values(settings)
    if method.name == "adalora":
        values["total_step"] = 100
    return trains(config, config_class(task_type="CAUSAL_LM", **values))


def counted(shape: Shape, settings: dict[str, Any]) -> int | None:
    method = peft_method(settings)
    assert method is not None
    settings = {**method.defaults, **method.fixed, **settings}
    derived = {name: found.value for name, found in method.follows(shape, settings).items()}
    return method.count(shape, {**derived, **settings})


def with_targets(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what follows the family, as a run has them."""
    method = peft_method(settings)
    assert method is not None
    return {**{name: f.value for name, f in method.follows(shape_of(config), settings).items()}, **settings}


ADAPTERS: list[dict[str, Any]] = [
    {"name": "dora"},
    {"name": "rslora", "r": 7},
    {"name": "pissa", "r": 4, "init_lora_weights": True},
    {"name": "loraplus"},
    {"name": "qlora", "layers_to_transform": [1], "target_modules": "LINEAR"},
    {"name": "adalora"},
    {"name": "adalora", "init_r": 5, "target_r": 2, "target_modules": "LINEAR"},
    {"name": "vera", "r": 12},
    {"name": "oft"},
    {"name": "oft", "oft_block_size": 20},
    {"name": "oft", "r": 4, "oft_block_size": 0, "target_modules": "LINEAR"},
    {"name": "oft", "block_share": True},
    {"name": "ia3"},
    {"name": "prompt", "num_virtual_tokens": 3},
    {"name": "prefix", "num_virtual_tokens": 3},
    {"name": "prefix", "num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 24},
    {"name": "p_tuning", "num_virtual_tokens": 3},
    {"name": "p_tuning", "encoder_hidden_size": 24},
    {"name": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 24, "encoder_num_layers": 3},
    {"name": "p_tuning", "deep": True},
    {"name": "adapter"},
    {"name": "adapter", "placement": "pfeiffer", "bottleneck_size": 6},
]


@pytest.mark.parametrize("variant", DENSE)
def test_every_adapter_counts_what_peft_trains(variant):
    config = small_config(variant)
    shape = shape_of(config)
    builder = FAMILIES[variant.partition("-")[0]].builder
    for adapter in ADAPTERS:
        settings = dict(adapter)
        if settings.get("target_modules") == "LINEAR":
            settings["target_modules"] = ["qkv_proj"] if variant == "phi3" else LINEAR[builder]
        if variant == "opt-projected" and settings["name"] in ("prompt", "p_tuning") and not settings.get("deep"):
            with pytest.raises(
                ValueError, match="virtual tokens would be 64 wide, but this model's embeddings are 32 wide"
            ):
                counted(shape, settings)
            continue
        if builder == "gpt2" and settings["name"] == "oft":
            with pytest.raises(ValueError, match="Conv1D"):
                counted(shape, settings)
            with pytest.raises((ValueError, TypeError), match="Conv1D"):
                real(config, settings)
            continue
        if settings.get("layers_to_transform"):
            settings["layers_pattern"] = None
        assert counted(shape, settings) == real(config, with_targets(config, settings)), settings


@pytest.mark.parametrize("variant", DENSE)
def test_freezing_counts_what_stays_trainable(variant):
    from ftcli.worker.tuners.freeze import Freeze

    config = small_config(variant)
    builder = FAMILIES[variant.partition("-")[0]].builder
    head = {"llama": "embed_tokens", "phi": "lm_head", "gpt2": "wte", "opt": "embed_tokens"}[builder]
    positions = {"gpt2": "wpe", "opt": "embed_positions"}.get(builder, "norm" if builder == "llama" else "mlp")
    for settings in (
        {"num_layers": 1},
        {"num_layers": 2},  # all that there are
        {"num_layers": 0, "modules": ["h" if builder == "gpt2" else "layers"]},
        {"num_layers": 0, "modules": [positions, "lm_head"]},
        {"num_layers": 2, "modules": [head]},
        {"num_layers": 0, "modules": ["lm_head"]},
    ):
        model = on_meta(config)
        Freeze(settings).model_loaded(model)
        expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert counted(shape_of(config), {"name": "freeze", **settings}) == expected, settings


@pytest.mark.parametrize("name", [name for name in PEFT_METHODS if name not in ("freeze", "other")])
def test_a_module_that_the_model_lacks_is_an_error_that_lists_those_it_has(name):
    if "target_modules" not in PEFT_METHODS[name].fields():
        pytest.skip("puts vectors before the input and has no target")
    with pytest.raises(ValueError, match=r"q_prj.* names no module; SmallForCausalLM has down_proj"):
        counted(shape_of(small_config("llama")), {"name": name, "target_modules": ["q_prj"]})


def test_what_cannot_be_known_is_none():
    shape = shape_of(small_config("llama"))
    assert counted(shape, {"name": "lora", "trainable_token_indices": [1]}) is None
    unknown = shape_from_mapping({**SMALL, "model_type": "new"})
    assert [counted(unknown, {"name": name}) for name in ("lora", "ia3", "vera", "freeze", "adapter")] == [None] * 5
    assert counted(shape, {"name": "other", "type": "LOHA"}) is None


# --- the papers' numbers ----------------------------------------------------------------------------------------------


def gpt3() -> Any:
    """The shape of GPT-3 175B with separate projections: OPT-175B."""
    return OPTConfig(
        hidden_size=12288, num_hidden_layers=96, num_attention_heads=96, ffn_dim=49152, vocab_size=50272,
        word_embed_proj_dim=12288, max_position_embeddings=2048,
    )  # fmt: skip


def test_lora_on_gpt_3_is_the_papers_18_9_million():
    # arXiv:2106.09685, section 4.2 and table 2: two matrices a layer, r × (in + out) each.
    settings = {"name": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
    assert 96 * 2 * 4 * (12288 + 12288) == 18_874_368
    assert counted(shape_of(gpt3()), settings) == real(gpt3(), settings) == 18_874_368
    whole = num_parameters(shape_of(gpt3()))
    assert whole == sum(p.numel() for p in on_meta(gpt3()).parameters())
    assert whole is not None
    assert round(whole / 1e9, 1) == 174.6
    # Some 9,250 times fewer; the abstract's 10,000 compares the sizes of checkpoints.
    assert round(whole / 18_874_368, -1) == 9250


@pytest.mark.parametrize(("rank", "published"), [(1, 4.7), (8, 37.7)])
def test_lora_on_gpt_3_has_the_sizes_of_the_papers_runs(rank, published):
    # arXiv:2106.09685, table 4: query and value.
    found = counted(shape_of(gpt3()), {"name": "lora", "r": rank, "target_modules": ["q_proj", "v_proj"]})
    assert found == 2 * 96 * 2 * 12288 * rank
    assert round(found / 1e6, 1) == published


@pytest.mark.parametrize(("width", "published"), [(1, 7.1), (8, 40.1)])
def test_houlsbys_adapters_on_gpt_3_are_those_of_the_lora_papers_baseline(width, published):
    # arXiv:2106.09685, table 4, by the formula of section 5.1: two adapters a layer, no trained layer norm.
    settings = {"name": "adapter", "bottleneck_size": width}
    expected = 96 * 2 * (2 * 12288 * width + 12288 + width)
    assert counted(shape_of(gpt3()), settings) == real(gpt3(), settings) == expected
    assert round(expected / 1e6, 1) == published


def test_ia3_and_prefixes_on_gpt_3():
    # L · (d_k + d_v + d_ff), and 2 · L · p · d
    settings = {"name": "ia3", "target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}
    assert counted(shape_of(gpt3()), settings) == real(gpt3(), settings) == 96 * (12288 + 12288 + 49152) == 7_077_888
    prefixes = {"name": "prefix", "num_virtual_tokens": 10}
    assert counted(shape_of(gpt3()), prefixes) == real(gpt3(), prefixes) == 2 * 96 * 10 * 12288


def llama_2_7b() -> Any:
    return LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000
    )


def test_lora_on_llama_2_7b():
    settings = {"name": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"]}
    assert 32 * 2 * 8 * (4096 + 4096) == 4_194_304
    assert counted(shape_of(llama_2_7b()), settings) == real(llama_2_7b(), settings) == 4_194_304


def test_ia3_scales_keys_values_and_the_inside_of_the_feed_forward():
    # arXiv:2205.05638, section 3.3: L · (d_k + d_v + d_ff)
    expected = 32 * (4096 + 4096 + 11008)
    settings = with_targets(llama_2_7b(), {"name": "ia3"})
    assert counted(shape_of(llama_2_7b()), {"name": "ia3"}) == real(llama_2_7b(), settings) == expected


def test_a_prefix_is_a_key_and_a_value_for_each_layer_and_position():
    # arXiv:2101.00190, section 4.2: |P_idx| × dim(h), where h holds keys and values of all layers
    settings = {"name": "prefix", "num_virtual_tokens": 10}
    assert counted(shape_of(llama_2_7b()), settings) == real(llama_2_7b(), settings) == 10 * 2 * 32 * 4096


def test_houlsbys_adapters_are_2md_plus_d_plus_m():
    # arXiv:1902.00751, section 2.1, twice a layer; BERT-large's d = 1024 and m = 64 in 24 layers.
    config = AutoConfig.for_model("llama", **{**SMALL, "hidden_size": 1024, "num_hidden_layers": 24})
    settings = {"name": "adapter", "bottleneck_size": 64}
    assert counted(shape_of(config), settings) == real(config, settings) == 24 * 2 * (2 * 64 * 1024 + 1024 + 64)


def test_our_tuner_is_known_to_peft():
    assert ftcli.worker.tuners.BottleneckConfig().peft_type == "BOTTLENECK"
