"""Every count against the installed PEFT under settings drawn at random, also those that no declaration of ours allows.

What PEFT refuses must not be counted, and what it trains must be counted right, or not at all.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import hypothesis
import peft
import pytest
import torch
from hypothesis import strategies as st
from peft.utils import constants
from transformers import AutoModelForCausalLM

import ftcli.worker.tuners
from ftcli.models.families import FAMILIES
from ftcli.models.modules import modules
from ftcli.peft_methods import PEFT_METHODS, adalora, ia3, vera
from ftcli.peft_methods.parameter_counts import UNCOUNTED
from tests.models.test_shapes import VARIANTS, shape_of, small_config
from tests.peft_methods.test_parameter_counts import trains

TUNERS: dict[str, Any] = {
    "lora": peft.LoraConfig, "adalora": peft.AdaLoraConfig, "vera": peft.VeraConfig, "oft": peft.OFTConfig,
    "ia3": peft.IA3Config, "bottleneck": ftcli.worker.tuners.BottleneckConfig, "prompt": peft.PromptTuningConfig,
    "prefix": peft.PrefixTuningConfig, "p_tuning": peft.PromptEncoderConfig,
}  # fmt: skip
COUNTS = {**{name: PEFT_METHODS[name].count for name in PEFT_METHODS}, "bottleneck": PEFT_METHODS["adapter"].count}
BIASES = {"lora": "lora_only", "adalora": "lora_only", "vera": "vera_only", "oft": "oft_only"}


def by_peft(config: Any, name: str, asked: dict[str, Any]) -> int:
    more = {"total_step": 100} if name == "adalora" else {}
    return trains(config, TUNERS[name](task_type="CAUSAL_LM", **asked, **more))


SMALL_INTEGERS, FLAGS = st.integers(1, 20), st.booleans()
VECTORS = {"encoder_hidden_size": SMALL_INTEGERS}
# The settings of each tuner that decide how much it trains a module.
SIZES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "lora": {
        "r": SMALL_INTEGERS, "use_dora": FLAGS, "lora_bias": FLAGS, "rank_pattern": st.just({r".*1\..*_proj": 3}),
        "init_lora_weights": st.sampled_from([True, "gaussian", "orthogonal", "pissa_niter_2", "mica", "lora_ga"]),
    },
    "adalora": {"init_r": SMALL_INTEGERS, "lora_bias": FLAGS},
    "vera": {"r": SMALL_INTEGERS},
    "oft": {
        "oft_block_size": st.integers(1, 200), "coft": FLAGS, "block_share": FLAGS, "use_cayley_neumann": FLAGS,
        "r": st.integers(1, 70),
    },
    "ia3": {},
    "bottleneck": {"bottleneck_size": SMALL_INTEGERS, "reduction_factor": st.sampled_from([0.5, 2, 3.5, 100])},
    "prompt": {},
    "prefix": {**VECTORS, "prefix_projection": FLAGS},
    "p_tuning": {
        **VECTORS, "encoder_reparameterization_type": st.sampled_from(["MLP", "LSTM"]),
        "encoder_num_layers": st.integers(1, 3),
    },
}  # fmt: skip


def places(name: str, variant: str) -> dict[str, st.SearchStrategy[Any]]:
    """Where a tuner may go: by list, pattern or word, less some, and what trains whole beside it."""
    shape = shape_of(small_config(variant))
    leaves = sorted({m.leaf for m in modules(shape) if m.kind == "linear" and m.name != "lm_head"})
    norms = [m.leaf for m in modules(shape) if m.kind == "norm"] or leaves
    words = next(m.leaf for m in modules(shape) if m.kind == "embedding")
    some = st.lists(st.sampled_from(leaves), min_size=1, unique=True)
    asked: dict[str, st.SearchStrategy[Any]] = {
        "target_modules": some | st.sampled_from(["all-linear", rf".*\.1\..*{leaves[0]}", [words, leaves[0]]]),
        "modules_to_save": st.sampled_from([["lm_head"], [leaves[-1]], norms[-1:]]),
        "layers_to_transform": st.sampled_from([0, [1]]),
        "exclude_modules": some | st.just(r".*\.0\..*"),
        "feedforward_modules": some | st.sampled_from([[], ".*proj"]),
        "placement": st.sampled_from(["houlsby", "pfeiffer"]),
        "bias": st.sampled_from(["all", "none", BIASES.get(name, "none")]),
    }
    known = {field.name for field in fields(TUNERS[name])}
    return {key: value for key, value in asked.items() if key in known}


@st.composite
def adapters(draw: st.DrawFn, name: str) -> tuple[str, dict[str, Any]]:
    """A small model and settings that PEFT may take or refuse."""
    variant = draw(st.sampled_from(sorted(VARIANTS)))
    asked = draw(st.fixed_dictionaries({}, optional={**places(name, variant), **SIZES[name]}))
    if name in ("prompt", "prefix", "p_tuning"):
        asked["num_virtual_tokens"] = draw(SMALL_INTEGERS)  # without a default of PEFT's
    if name == "oft" and "r" in asked:
        asked["oft_block_size"] = 0
    return variant, asked


@pytest.mark.parametrize("name", TUNERS)
def test_a_count_is_what_peft_trains_or_none_or_refused_as_peft_refuses(name: str):
    outcomes = []

    @hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @hypothesis.given(adapters(name))
    def holds(case: tuple[str, dict[str, Any]]) -> None:
        variant, asked = case
        config = small_config(variant)
        try:
            expected = by_peft(config, name, asked)
        except (ValueError, TypeError, AttributeError):
            expected = None
        try:
            found = COUNTS[name](shape_of(config), asked)
        except ValueError:
            # Only here is PEFT less strict: it makes virtual tokens that do not fit this model's words.
            assert expected is None or (variant == "opt-projected" and name in ("prompt", "p_tuning"))
            return
        outcomes.append(found is not None)
        assert found == expected or (found is None and shape_of(config).latent_attention)

    holds()
    assert sum(outcomes) >= 10  # enough of what is drawn is counted


@pytest.mark.parametrize("model_type", FAMILIES)
def test_targets_that_nobody_names_are_those_of_pefts_own_tables(model_type: str):
    def table(name: str) -> set[str]:
        return set(getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_MODULES_MAPPING").get(model_type, ()))

    lora = FAMILIES[model_type].peft_default
    assert set(lora) == table("LORA_TARGET") == table("OFT_TARGET")
    assert set(vera.TARGETS.get(model_type, lora)) == table("VERA_TARGET")
    assert set(adalora.TARGETS.get(model_type, ())) == table("ADALORA_TARGET")
    assert set(ia3.TARGETS.get(model_type, ())) == table("IA3_TARGET")
    assert set(ia3.TARGETS.get(model_type, ())[-1:]) == table("IA3_FEEDFORWARD")


# Read by a count.
COUNTED = {
    "r", "target_modules", "exclude_modules", "bias", "modules_to_save", "layers_to_transform", "rank_pattern",
    "use_dora", "lora_bias", "init_lora_weights", "init_r", "oft_block_size", "block_share", "feedforward_modules",
    "reduction_factor", "bottleneck_size", "placement", "num_virtual_tokens", "num_layers", "prefix_projection",
    "encoder_hidden_size", "encoder_num_layers", "encoder_reparameterization_type", "ensure_weight_tying",
}  # fmt: skip
# Without a say in how much trains: names, scales, starts, schedules, dropout, and how the same numbers are used.
NEUTRAL = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "alpha_pattern", "megatron_core", "loftq_config",
    "corda_config", "lora_ga_config", "eva_config", "velora_config", "use_qalora", "qalora_group_size",
    "runtime_config", "target_r",
    "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "projection_prng_key",
    "save_projection", "vera_dropout", "d_initial", "init_weights", "module_dropout", "coft", "eps",
    "use_cayley_neumann", "num_cayley_neumann_terms", "init_ia3_weights", "non_linearity", "dropout",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "encoder_dropout",
}  # fmt: skip


@pytest.mark.parametrize("name", TUNERS)
def test_every_setting_of_a_tuner_is_counted_or_neutral_or_gives_none(name: str):
    # A field that a later PEFT adds must be judged before the count can be trusted.
    known = {field.name for field in fields(TUNERS[name])}
    assert known <= COUNTED | NEUTRAL | set(UNCOUNTED), known - COUNTED - NEUTRAL - set(UNCOUNTED)
    for field in known & set(UNCOUNTED):
        assert COUNTS[name](shape_of(small_config("llama")), {field: 2, "target_modules": ["q_proj"]}) is None


def test_oft_rotates_what_gpt_2_has_beside_its_convolutions():
    asked = {"target_modules": ["wte", "lm_head"], "oft_block_size": 16}
    found = COUNTS["oft"](shape_of(small_config("gpt2")), asked)
    # each 64 wide: four blocks of 16 x 15 / 2
    assert found == by_peft(small_config("gpt2"), "oft", asked) == 2 * 4 * 120


def test_ia3_scales_the_inputs_of_names_that_end_so_even_in_mid_word():
    asked = {"target_modules": ".*(up|gate)_proj", "feedforward_modules": ["p_proj"]}
    found = COUNTS["ia3"](shape_of(small_config("llama")), asked)
    # two layers, of the 64 inputs of up_proj and the 96 outputs of gate_proj
    assert found == by_peft(small_config("llama"), "ia3", asked) == 2 * (64 + 96)


def test_adaloras_remaining_rank_is_no_trained_parameter():
    # On a real model: PEFT loses the mark when it moves an adapter to the meta device.
    model = AutoModelForCausalLM.from_config(small_config("llama"))
    config = peft.AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_r=6, total_step=100)
    wrapped = peft.get_peft_model(model, config)
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert {p.requires_grad for n, p in wrapped.named_parameters() if "ranknum" in n} == {False}
    assert COUNTS["adalora"](shape_of(small_config("llama")), {"target_modules": ["q_proj"], "init_r": 6}) == trained
    assert trained == 2 * 6 * (64 + 64 + 1)  # two layers


def test_prompts_do_not_fit_words_of_another_width_than_the_model():
    model = AutoModelForCausalLM.from_config(small_config("opt-projected"))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        peft.get_peft_model(model, config)(input_ids=torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "variant", "asked", "reason"),
    [
        ("adalora", "mistral", {}, "PEFT has no default for mistral"),
        ("ia3", "phi3", {}, "PEFT has no default for phi3"),
        ("ia3", "phi3", {"target_modules": ["o_proj"]}, "set feedforward_modules, or"),
        ("ia3", "llama", {"target_modules": ["q_proj"], "feedforward_modules": ["up_proj"]}, "'up_proj' in feedforw"),
        ("ia3", "llama", {"target_modules": ["embed_tokens"]}, "embed_tokens cannot carry this adapter"),
        ("lora", "llama", {"lora_bias": True, "init_lora_weights": "olora"}, "with its default initialisation only"),
        ("lora", "llama", {"r": 4, "rank_pattern": {"q_proj": 3}, "init_lora_weights": "orthogonal"}, "ranks, not 3"),
        ("adalora", "llama", {"use_dora": True}, "does not support use_dora"),
        ("adalora", "llama", {"target_modules": "all-linear", "layers_to_transform": [0]}, "target_modules as a list"),
        (
            "p_tuning", "llama", {"encoder_num_layers": 3, "encoder_reparameterization_type": "MLP"},
            "always has two inner layers, not encoder_num_layers=3",
        ),
        ("oft", "llama", {"r": 4}, "one of r and oft_block_size"),
        ("bottleneck", "gpt_oss", {}, "SmallForCausalLM has experts in its feed-forward"),
        ("freeze", "gpt_oss", {"modules": ["sinks"]}, "'sinks' in modules names no module"),
    ],
)  # fmt: skip
def test_what_peft_would_refuse_later_is_refused_with_its_reason(name, variant, asked, reason):
    with pytest.raises(ValueError, match=reason):
        COUNTS[name](shape_of(small_config(variant)), asked)
