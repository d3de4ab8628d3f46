"""Shapes, module lists and LoRA counts, held against the installed transformers and PEFT."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ftcli.core.errors import ConfigError
from ftcli.models.families import FAMILIES
from ftcli.models.known_shapes import flat_config
from ftcli.models.modules import modules
from ftcli.models.parameters import all_linear, linear_modules, num_parameters
from ftcli.models.read_config import shape_from_folder, shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.models.stored_files import stored_parameters
from ftcli.peft_methods.lora_counts import lora_parameters
from ftcli.worker.training.expert_targets import reach_experts
from tests.conftest import REPOSITORY

ROOT = REPOSITORY
FILES = sorted((ROOT / "configs" / "model").glob("*.yaml"))
HUB_FILES = [file for file in FILES if yaml.safe_load(file.read_text())["shape"]]

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
EXPERTS = {"n_shared_experts": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "num_experts_per_tok": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-biased": {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": True},
    "mistral": {"head_dim": 32},
    "qwen2": {},
    "qwen3": {},
    "qwen3-biased": {"attention_bias": True},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi": {},
    "phi-tied": {"tie_word_embeddings": True, "qk_layernorm": True, "head_dim": 32},
    "phi3": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "gpt2-narrow": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 100, "n_positions": 77},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "opt-projected": {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "opt-bare": {
        "ffn_dim": 96,
        "word_embed_proj_dim": 64,
        "enable_bias": False,
        "layer_norm_elementwise_affine": False,
    },
    "opt-old": {
        "ffn_dim": 96,
        "word_embed_proj_dim": 64,
        "_remove_final_layer_norm": True,
        "tie_word_embeddings": False,
    },
    "smollm3": {},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {**LATENT, **EXPERTS, "q_lora_rank": None, "n_routed_experts": 4, "mlp_bias": True},
    "deepseek_v3": {**LATENT, **EXPERTS, "q_lora_rank": 20, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
}


def small_config(variant: str) -> Any:
    return AutoConfig.for_model(variant.partition("-")[0], **SMALL, **VARIANTS[variant])


def on_meta(config: Any, **options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **options)


def shape_of(config: Any) -> Shape:
    return shape_from_mapping({**config.to_dict(), "architectures": ["SmallForCausalLM"]})


def parameters_by_module(model: torch.nn.Module) -> Counter[str]:
    """Elements by module; parameters that a module holds beside its submodules go under their own name."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        key = owner if leaf in ("weight", "bias") else name.removesuffix("_bias")
        counts[key] += parameter.numel()
    return counts


@pytest.mark.parametrize("file", HUB_FILES, ids=lambda file: file.stem)
def test_published_parameter_count_is_that_of_the_real_model_class(file: Path):
    choice = yaml.safe_load(file.read_text())
    raw = choice["shape"]
    groups = {**(raw.pop("experts") or {}), **(raw.pop("latent_attention") or {}), **raw.pop("more", {})}
    published = raw.pop("num_parameters")
    config = AutoConfig.for_model(
        raw["model_type"], **{k: v for k, v in {**raw, **groups}.items() if k not in ("architecture", "model_type")}
    )
    model = on_meta(config, attn_implementation=choice["attn_implementation"].replace("auto", "sdpa"))
    shape = shape_from_mapping(yaml.safe_load(file.read_text())["shape"])
    assert sum(p.numel() for p in model.parameters()) == published
    assert num_parameters(shape) == published
    assert type(model).__name__ == shape.architecture
    assert shape.supports_sdpa == model._supports_sdpa


@pytest.mark.parametrize("name", ["qwen3.5-4b", "gemma-4-26b-a4b", "granite-4-h-micro", "glm-4.7-flash"])
def test_a_worker_is_asked_for_an_architecture_in_no_table_with_all_that_it_needs(name: str):
    raw = yaml.safe_load((ROOT / "configs" / "model" / f"{name}.yaml").read_text())["shape"]
    fields = flat_config(raw)
    model = on_meta(AutoConfig.for_model(fields.pop("model_type"), **fields))
    assert sum(p.numel() for p in model.parameters()) == raw["num_parameters"]


def test_well_known_models_have_their_published_counts():
    published = {
        "llama": 8_030_261_248,
        "qwen": 8_190_735_360,
        "mistral": 7_248_023_552,
        "gemma": 2_614_341_888,
    }
    for name, count in published.items():
        file = ROOT / "configs" / "model" / f"{name}.yaml"
        assert yaml.safe_load(file.read_text())["shape"]["num_parameters"] == count


def test_every_model_file_has_the_same_keys_and_says_when_to_choose_it():
    keys = {tuple(yaml.safe_load(file.read_text())) for file in FILES}
    # What an architecture in no table needs beside these stands under `more`.
    shape_keys = {
        tuple(key for key in yaml.safe_load(file.read_text())["shape"] if key != "more") for file in HUB_FILES
    }
    assert len(keys) == len(shape_keys) == 1
    for file in FILES:
        first = file.read_text().splitlines()[0]
        assert first.startswith("# "), file.name
        assert len(first) <= 100, file.name


def test_builtin_model_is_a_known_architecture_within_its_budget():
    shape = shape_from_folder(ROOT / "ftcli" / "tiny" / "model")
    assert shape is not None
    assert shape.known
    assert (num_parameters(shape) or 0) <= 2_400_000
    assert (shape.max_position_embeddings or 0) >= 8192


def sizes(module: torch.nn.Module) -> torch.Size:
    """Outputs and inputs; a one-wide convolution stores them the other way round."""
    shape = module.weight.shape
    return torch.Size(reversed(shape)) if isinstance(module, Conv1D) else shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_module_has_the_name_and_size_of_the_real_one(variant: str):
    config = small_config(variant)
    model = on_meta(config)
    shape = shape_of(config)
    counted = {m.name: m.num_own_parameters for m in modules(shape) if m.num_own_parameters}
    assert counted == dict(parameters_by_module(model))
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)} - {"lm_head"}
    assert all_linear(shape) == {name.rpartition(".")[2] for name in linear}
    by_size = Counter((n.rpartition(".")[2], sizes(model.get_submodule(n))) for n in linear)
    ours = {(m.name, torch.Size([m.out_features, m.in_features])): m.num_layers for m in linear_modules(shape) or ()}
    assert ours == by_size


@pytest.mark.parametrize(
    ("model_type", "published", "sizes"),
    [
        ("gpt2", 124_439_808, {}),
        ("opt", 125_239_296, {}),
        (
            "opt",  # OPT-350m
            331_196_416,
            {
                "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096,
                "word_embed_proj_dim": 512, "do_layer_norm_before": False,
            },
        ),
        ("phi", 2_779_683_840, {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32}),  # Phi-2
    ],
)  # fmt: skip
def test_older_families_have_the_counts_of_their_published_models(model_type: str, published: int, sizes: dict):
    config = AutoConfig.for_model(model_type, pad_token_id=0, **sizes)
    assert num_parameters(shape_of(config)) == published
    assert sum(p.numel() for p in on_meta(config).parameters()) == published


def test_a_decoder_that_also_attends_to_an_encoder_is_unknown():
    config = AutoConfig.for_model("gpt2", **SMALL, add_cross_attention=True)
    assert num_parameters(shape_of(config)) is None


def test_every_family_has_a_variant_under_test():
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(FAMILIES)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_saved_folder_reads_back_with_the_defaults_of_its_config_class(model_type: str, tmp_path: Path):
    config = AutoConfig.for_model(model_type, num_hidden_layers=1, pad_token_id=0)
    config.architectures = ["Saved"]
    if model_type == "deepseek_v2":
        config.num_experts_per_tok = 2
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    # Older files on the hub leave out what equals the class's default.
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias", "head_dim"):
        raw.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    shape = shape_from_folder(tmp_path)
    assert shape is not None
    assert shape.architecture == "Saved"
    model = on_meta(AutoConfig.from_pretrained(tmp_path))
    assert num_parameters(shape) == sum(p.numel() for p in model.parameters())


def test_an_unknown_architecture_is_counted_from_its_stored_weights_and_its_modules_stay_unknown(tmp_path: Path):
    config = AutoConfig.for_model("olmo2", **SMALL)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    shape = shape_from_folder(tmp_path)
    assert shape is not None
    assert not shape.known
    assert num_parameters(shape) == sum(p.numel() for p in model.parameters())
    assert linear_modules(shape) is None
    assert all_linear(shape) is None
    assert lora_parameters(shape, 8, "all-linear") is None


def test_a_nested_text_config_gives_the_sizes_but_no_modules(tmp_path: Path):
    text = {**SMALL, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    shape = shape_from_folder(tmp_path)
    assert shape is not None
    assert shape.hidden_size == 64
    assert shape.head_dim == 16
    assert not shape.known
    assert num_parameters(shape) is None


def test_a_folder_that_says_too_little_has_no_shape_and_a_damaged_one_is_an_error(tmp_path: Path):
    assert shape_from_folder(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert shape_from_folder(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ConfigError, match="cannot be read"):
        shape_from_folder(tmp_path)


def test_packed_or_damaged_weights_are_not_counted(tmp_path: Path):
    assert stored_parameters(tmp_path) is None
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-1.safetensors")
    assert stored_parameters(tmp_path) == 17
    save_file({"c": torch.zeros(6, dtype=torch.uint8)}, tmp_path / "model-2.safetensors")
    assert stored_parameters(tmp_path) is None
    (tmp_path / "model-2.safetensors").write_bytes(b"\xff" * 16)
    assert stored_parameters(tmp_path) is None


def test_every_wrong_size_of_a_shape_is_told_at_once():
    raw = yaml.safe_load(HUB_FILES[0].read_text())["shape"]
    raw |= {"hidden_size": "wide", "num_hidden_layers": 0, "vocab_size": None, "mlp_bias": "no", "head_dim": True}
    with pytest.raises(ConfigError) as caught:
        shape_from_mapping(raw)
    assert [p.where for p in caught.value.problems] == [
        "model.shape.hidden_size",
        "model.shape.num_hidden_layers",
        "model.shape.head_dim",
        "model.shape.vocab_size",
        "model.shape.mlp_bias",
    ]
    assert "'wide'" in caught.value.problems[0].what
    assert "is missing" in caught.value.problems[3].what


def trainable(variant: str, options: dict[str, Any]) -> int:
    """What PEFT trains, with arguments of LoraConfig, resolved for the model as a run does."""
    bare, adapter = on_meta(small_config(variant)), LoraConfig(task_type="CAUSAL_LM", **options)
    reach_experts(adapter, bare)
    model = get_peft_model(bare, adapter)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def counted(variant: str, options: dict[str, Any]) -> int | None:
    options = dict(options)
    return lora_parameters(shape_of(small_config(variant)), options.pop("r"), options.pop("target_modules"), **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_linear_trains_what_peft_trains(variant: str):
    options = {"r": 4, "target_modules": "all-linear"}
    assert counted(variant, options) == trainable(variant, options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": None},
        {"target_modules": r".*\.(k_proj|down_proj)"},
        {"target_modules": r".*layers\.1\.self_attn\.[qv]_proj"},
        {"target_modules": ["layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]},
        {"target_modules": "all-linear", "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": "all-linear", "lora_bias": True},
        {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": "all-linear", "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
        {"target_modules": "all-linear", "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["v_proj"], "bias": "all"},
        {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["1.mlp"]},
        {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True},
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
        {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 0},
        {"target_modules": ["q_proj", "model.layers.1.mlp.up_proj", "lm_head"], "layers_to_transform": [0]},
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2, r".*layers\.1\.mlp\..*": 9}},
    ],
    ids=str,
)
def test_every_setting_counts_as_peft_counts_it(options: dict[str, Any]):
    options = {"r": 4, **options}
    for variant in ("llama-biased", "qwen2"):
        assert counted(variant, options) == trainable(variant, options), variant


@pytest.mark.parametrize(
    "targets",
    [
        ["q_proj", "gate"],
        ["gate_proj", "up_proj"],
        ["mlp.down_proj"],
        ["kv_b_proj", "o_proj"],
        r".*\.(o_proj|gate_proj|up_proj)",
        r".*\.shared_experts\.(gate_proj|up_proj)",
    ],
    ids=str,
)
def test_targets_of_a_deepseek_mixture_are_rewritten_as_peft_rewrites_them(targets: Any):
    options = {"r": 4, "target_modules": targets}
    assert counted("deepseek_v2", options) == trainable("deepseek_v2", options)


def test_llama_2_7b_with_query_and_value_adapters_of_rank_8():
    # 32 layers x (query and value) x 8 x (4096 in + 4096 out)
    shape = shape_from_mapping(yaml.safe_load((ROOT / "configs/model/llama-2-7b.yaml").read_text())["shape"])
    assert lora_parameters(shape, 8, ["q_proj", "v_proj"]) == 32 * 2 * 8 * (4096 + 4096) == 4_194_304


@pytest.mark.parametrize(
    ("variant", "options", "reason"),
    [
        ("llama", {"target_modules": ["qproj"]}, "'qproj' names no module; SmallForCausalLM has down_proj, embed_tok"),
        ("llama", {"target_modules": ["q_proj", "query"]}, "'query' names no module"),
        ("llama", {"target_modules": "q_proj"}, "matches no whole module name such as model.layers.0"),
        ("llama", {"target_modules": r".*self_attn.*"}, "also matches model.layers.0.self_attn, which is not a layer"),
        ("llama", {"target_modules": r".*(q_proj"}, "is not a regular expression"),
        ("llama", {"target_modules": ["input_layernorm"]}, "input_layernorm cannot carry an adapter"),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["head_lm"]}, "'head_lm' in modules_to_save"),
        ("llama", {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "no module is left to adapt"),
        ("llama", {"target_modules": "all-linear", "layers_to_transform": 0}, "needs target_modules as a list"),
        (
            "llama",
            {"target_modules": ["q_proj"], "modules_to_save": ["attn"]},
            "'attn' in modules_to_save matches part",
        ),
        ("llama", {"target_modules": None, "use_dora": True, "lora_bias": True}, "lora_bias or use_dora, not both"),
        ("llama", {"target_modules": ["embed_tokens"], "lora_bias": True}, "embed_tokens is an embedding"),
        ("gpt_oss", {"target_modules": ["q_proj"], "modules_to_save": ["up_proj"]}, "names a parameter, not a module"),
        ("gpt_oss", {"target_modules": ["router"]}, "router cannot carry an adapter"),
        ("phi3", {"target_modules": None}, "PEFT has no default for phi3"),
        ("deepseek_v2", {"target_modules": ["gate_proj"]}, "target both or neither"),
        ("deepseek_v2", {"target_modules": ["nothing"]}, "'nothing' names no module"),
    ],
)
def test_a_target_that_the_model_lacks_is_an_error_with_its_reason(variant: str, options: dict, reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        counted(variant, {"r": 4, **options})


def test_settings_of_a_mixture_that_cannot_be_counted_are_unknown_rather_than_wrong():
    assert counted("deepseek_v2", {"r": 4, "target_modules": ["q_proj"], "use_dora": True}) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"lora_dropout": 0.1},
        {"lora_bias": True},
        {"exclude_modules": r".*\.experts\..*"},
        {"exclude_modules": ["o_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"experts.down_proj": 2, "q_proj": 7}},
        {"bias": "all"},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["gpt_oss", "deepseek_v2", "deepseek_v3"])
def test_all_linear_of_a_mixture_counts_what_a_run_trains(variant: str, options: dict[str, Any]):
    options = {"r": 4, "target_modules": "all-linear", **options}
    assert counted(variant, options) == trainable(variant, options)


def test_all_linear_reaches_experts_and_not_the_router():
    # deepseek_v2's small copy: one dense layer, one of 4 experts of width 24 and 2 shared ones, hidden size 64
    bare, adapter = on_meta(small_config("deepseek_v2")), LoraConfig(r=4, target_modules="all-linear")
    reach_experts(adapter, bare)
    names = [n for n, p in get_peft_model(bare, adapter).named_parameters() if p.requires_grad]
    assert not [name for name in names if ".gate." in name or "router" in name]
    assert [name for name in names if "shared_experts.up_proj" in name]
    # gate and up are one tensor of 2 x 24 outputs: 4 experts x rank 4 x (64 + 48), and down 4 x 4 x (24 + 64)
    model = get_peft_model(on_meta(small_config("deepseek_v2")), adapter)
    experts = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "mlp.experts." in n)
    assert experts == 4 * 4 * (64 + 48) + 4 * 4 * (24 + 64)
