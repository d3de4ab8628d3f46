"""What a worker measures of a model class: its modules and parameters as they are, and how it takes packed rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from ftcli.models.families import FAMILIES
from ftcli.models.layout import Layout
from ftcli.models.modules import modules
from ftcli.models.packing_support import PACKS_EXACTLY
from ftcli.worker.models.architecture import measure, modules_of
from ftcli.worker.models.packing_trial import small_model, trial_of
from ftcli.worker.models.two_layers import small_copies
from ftcli.worker.training.expert_targets import reach_experts
from tests.matrix.architectures import configuration
from tests.models.test_shapes import VARIANTS, on_meta, parameters_by_module, shape_of, small_config

SPREAD = {
    "olmo3": {},
    "qwen3_moe": {},
    "granitemoe": {},
    "gpt_neox": {},
    "bert": {"is_decoder": True},
    "gemma3": {},
}
CHOICES = {"deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 8, "n_group": 1, "topk_group": 1}}


@pytest.mark.parametrize("model_type", SPREAD)
def test_a_measured_architecture_has_the_parameters_of_the_real_one(model_type: str):
    config = AutoConfig.for_model(model_type, **SPREAD[model_type])
    small = next(small_copies(config))
    answer = measure(json.loads(json.dumps(small.to_dict(), default=str)))
    layout = Layout.from_data(json.loads(json.dumps(answer["layout"])))
    model = on_meta(small.text_config if model_type == "gemma3" else small)
    assert sum(module.num_own_parameters for module in layout.modules) == sum(p.numel() for p in model.parameters())
    assert layout.sizes["architecture"] == type(model).__name__
    assert layout.sizes["hidden_size"] == model.config.hidden_size
    assert layout.packs == (model_type != "bert")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_table_says_what_measuring_would(variant: str):
    config = small_config(variant)
    model, shape = on_meta(config), shape_of(config)
    measured = {m.name: m for m in modules_of(model)}
    for module in modules(shape):
        if not module.num_parameters or module.kind in ("norm", "parameter"):
            continue
        found = measured[module.name]
        if module.kind == "experts":  # stored either way round; a bias is a parameter of its own
            assert {found.in_features, found.out_features} == {module.in_features, module.out_features}
            assert found.num_stacked == module.num_stacked
            continue
        sizes = (found.in_features, found.out_features, found.kind, found.head, found.tied, found.bias)
        assert sizes == (
            module.in_features, module.out_features, module.kind, module.head, module.tied, module.bias,
        ), module.name  # fmt: skip
    assert sum(m.num_own_parameters for m in measured.values()) == sum(parameters_by_module(model).values())


@pytest.mark.parametrize("model_type", sorted(PACKS_EXACTLY | FAMILIES.keys()))
def test_the_trial_of_packing_confirms_the_list(model_type: str):
    torch.set_num_threads(1)
    config = AutoConfig.for_model(model_type, **CHOICES.get(model_type, {}))
    trial = trial_of(small_model(config))
    assert trial.exact == (model_type in PACKS_EXACTLY), trial.why


def test_stacked_heads_are_no_experts():
    """XLNet's attention holds a weight of (hidden size, heads, width of a head) in place of a linear layer."""
    kinds = {module.leaf: module.kind for module in modules_of(small_model(AutoConfig.for_model("xlnet")))}
    assert {kinds[leaf] for leaf in "qkvor"} == {"parameter"}
    assert kinds["layer_1"] == "linear"


@pytest.mark.parametrize("model_type", ["recurrent_gemma", "zamba"])
def test_stacked_parameters_of_a_recurrence_are_no_experts(model_type: str):
    """RecurrentGemma's gates and Zamba's state spaces are stacked by head."""
    kinds = {module.name: module.kind for module in modules_of(small_model(configuration(model_type)))}
    stacked = [name for name in kinds if name.endswith(("gate_weight", "dt_proj_weight"))]
    assert stacked
    assert {kinds[name] for name in stacked} == {"parameter"}


def test_an_adapter_leaves_the_state_of_a_recurrence_to_its_owner():
    """A wrapper around it would keep the state of one batch for the next, whose backward pass would then fail."""
    model = small_model(configuration("recurrent_gemma"))
    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    reach_experts(adapter, model)
    adapted = get_peft_model(model, adapter).train()
    ids = torch.tensor([[5, 9, 17, 30, 4, 8]])
    first, second = (adapted(input_ids=ids, labels=ids, use_cache=False).loss for _ in range(2))
    first.backward()
    second.backward()
    assert torch.equal(first, second)


def test_a_trial_keeps_one_layer_of_each_kind():
    config = AutoConfig.for_model("qwen3_next")
    small = next(small_copies(config))
    assert set(small.layer_types) == {"linear_attention", "full_attention"}
    assert not trial_of(small_model(config)).exact  # its linear attention runs on across documents


def test_a_copy_keeps_layers_that_a_list_of_numbers_names():
    # Layers 1, 3, … of 48 have experts, and three of four attend in chunks: odd layers 1, 3 and even ones in chunks.
    config = AutoConfig.for_model("llama4_text", moe_layers=list(range(1, 48, 2)))
    small = next(small_copies(config))
    kinds = {(kind, index in small.moe_layers) for index, kind in enumerate(small.layer_types)}
    assert kinds == {("chunked_attention", False), ("chunked_attention", True), ("full_attention", True)}
    assert small.num_hidden_layers == len(small.layer_types) == 3


@pytest.mark.parametrize(
    ("model_type", "most"),
    [
        ("blt", 10), ("rwkv", 10), ("zamba", 100), ("prophetnet", 10), ("dots3_note", 10), ("mamba2", 10),
        ("nemotron_h", 10), ("longcat_flash", 10), ("xlstm", 40), ("roc_bert", 10), ("marian", 10),
    ],
)  # fmt: skip
def test_a_copy_can_be_called_and_is_small(model_type: str, most: int):
    # Tables of hashed bytes, no heads, a layer shared by several, an encoder's names, towers as wide as the decoder,
    # heads of state spaces, experts that do nothing, wide heads, further vocabularies.
    model = small_model(configuration(model_type))
    assert sum(p.numel() for p in model.parameters()) < most * 10**6


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "no_such_model"}, "no_such_model"),
        ({"model_type": "clip"}, "transformers has no causal language model for clip"),
        ({"model_type": "olmo3", "hidden_size": "wide"}, ""),
        ({}, ""),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_no_traceback(config: dict[str, Any], reason: str):
    assert reason in measure(config)["reason"]
