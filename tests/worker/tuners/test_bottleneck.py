"""Our bottleneck adapters behave as any tuner of PEFT, on every family whose layers are written down.

Small random models on CPU. Hidden size d is 32; a reduction factor of 4 makes the bottleneck m = 8.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ftcli.settings.library_fields import fields_of, options
from ftcli.worker.models.bitsandbytes_layers import keeping_numbers
from ftcli.worker.tuners import BottleneckConfig, BottleneckModel
from ftcli.worker.tuners.bottleneck import register
from ftcli.worker.tuners.bottleneck.config import add_type
from ftcli.worker.tuners.bottleneck.layer import BottleneckLayer
from ftcli.worker.tuners.bottleneck.model import SUBLAYERS
from tests.worker.conftest import conversation, pair_of_answers

HIDDEN, LAYERS = 32, 2
FAMILIES = tuple(SUBLAYERS)
EXTRA: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"multi_query": True, "new_decoder_architecture": False, "parallel_attn": True},
}
IDS = torch.tensor([[5, 9, 31, 8, 90, 17, 44, 3], [7, 7, 81, 60, 2, 12, 99, 4]])


def small(kind: str, **more: Any) -> PreTrainedModel:
    many_keys = kind in ("phi", "gpt2", "opt", "gpt_neox", "falcon")
    config = AutoConfig.for_model(
        kind,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2 if many_keys else 1,
        vocab_size=160,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **({"head_dim": 16} if kind in ("gemma", "gemma2", "gemma3_text", "glm4") else {}),
        **EXTRA.get(kind, {}),
        **more,
    )
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


def config(**values: Any) -> BottleneckConfig:
    """Starts at random, so that an adapter shows."""
    return BottleneckConfig(**{"task_type": "CAUSAL_LM", "reduction_factor": 4, "init_weights": False, **values})


def adapted(base: PreTrainedModel | None = None, seed: int = 5, **values: Any) -> PeftModel:
    base = small("llama") if base is None else base
    torch.manual_seed(seed)
    return get_peft_model(base, config(**values)).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits.clone()


def copies(model: Any, chosen: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if chosen(name)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def is_ours(name: str) -> bool:
    return ".bottleneck_" in name


def step(model: Any, learning_rate: float = 0.1) -> None:
    """One step of gradient descent on the next-token loss."""
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= learning_rate * parameter.grad
    model.eval()


# Where adapters stand, and how many parameters they have.


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_adapter_starts_as_the_identity_in_every_family(kind):
    base = small(kind)
    before = logits(base)
    assert torch.equal(logits(adapted(base, init_weights=True)), before)


@pytest.mark.parametrize(("placement", "k"), [("houlsby", 2), ("pfeiffer", 1)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_counts_are_those_of_the_paper_in_every_family(kind, placement, k):
    base = small(kind)
    before = logits(base)
    model = adapted(base, placement=placement)
    d, m = HIDDEN, 8  # 2·32·8 + 32 + 8 = 552 an adapter; two layers have 1104 (pfeiffer) or 2208 (houlsby)
    assert model.get_nb_trainable_parameters()[0] == LAYERS * k * (2 * d * m + d + m) == k * 1104
    assert all(is_ours(name) for name, p in model.named_parameters() if p.requires_grad)
    assert not torch.allclose(logits(model), before)


@pytest.mark.parametrize(
    ("values", "m"),
    [({}, 2), ({"reduction_factor": 5}, 6), ({"bottleneck_size": 3}, 3), ({"reduction_factor": 99}, 1)],
)
def test_the_width_is_hidden_over_the_factor_unless_named(values, m):
    model = get_peft_model(small("llama"), BottleneckConfig(**values))
    down = model.base_model.model.model.layers[1].mlp.down_proj.bottleneck_down["default"]
    assert down.weight.shape == (m, HIDDEN)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh"])
def test_the_output_of_a_layer_goes_through_the_bottleneck_and_keeps_its_own_part(name):
    layer = adapted(non_linearity=name).base_model.model.model.layers[0].self_attn.o_proj
    assert isinstance(layer, BottleneckLayer)
    function = torch.tanh if name == "tanh" else getattr(torch.nn.functional, name)
    x = torch.randn(2, 3, layer.in_features)
    h = layer.base_layer(x)
    expected = h + layer.bottleneck_up["default"](function(layer.bottleneck_down["default"](h)))
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_stand_at_the_very_end_of_their_sublayer(kind):
    model = adapted(small(kind)).base_model.model
    inside: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: inside.__setitem__(name, out))
    logits(model)
    places = [name for name, module in model.named_modules() if isinstance(module, BottleneckLayer)]
    assert len(places) == 2 * LAYERS
    for place in places:
        sublayer = inside[place.rpartition(".")[0]]
        if place.endswith("layers.0.fc2") or place.endswith("layers.1.fc2"):
            continue  # OPT has no module around its feed-forward
        output = sublayer[0] if isinstance(sublayer, tuple) else sublayer
        assert torch.equal(output.reshape(-1), inside[place].reshape(-1))


def test_targets_can_be_named_excluded_and_kept_to_some_layers():
    def names(**values: Any) -> list[str]:
        model = adapted(**values)
        return [name.removeprefix("model.layers.") for name in model.base_model.targeted_module_names]

    both = ["0.self_attn.o_proj", "0.mlp.down_proj", "1.self_attn.o_proj", "1.mlp.down_proj"]
    assert names() == both
    assert names(layers_to_transform=[1]) == both[2:]
    assert names(exclude_modules=["mlp.down_proj"]) == both[::2]
    assert names(target_modules=["v_proj"], placement="pfeiffer") == ["0.self_attn.v_proj", "1.self_attn.v_proj"]
    assert names(target_modules=r".*\.0\.mlp\.down_proj") == ["0.mlp.down_proj"]


def test_dropout_acts_in_training_only():
    model = adapted(dropout=0.5)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


# What is refused.


def test_an_unknown_family_is_named_and_asks_for_target_modules():
    base = small("starcoder2")
    with pytest.raises(ValueError, match=r"starcoder2 models; name target_modules"):
        get_peft_model(base, BottleneckConfig())
    assert adapted(base, target_modules=["self_attn.o_proj", "mlp.c_proj"]).get_nb_trainable_parameters()[0] == 2208


def test_experts_ask_for_target_modules_and_take_an_adapter_after_attention():
    base = small("gpt_oss", num_local_experts=2, num_experts_per_tok=1, head_dim=16)
    with pytest.raises(ValueError, match=r"gpt_oss models have experts.*name target_modules"):
        get_peft_model(base, BottleneckConfig())
    with pytest.raises(ValueError, match="needs a linear layer, not GptOssMLP"), pytest.warns(match="Unsupported"):
        get_peft_model(base, BottleneckConfig(target_modules=["mlp"]))
    assert adapted(base, target_modules=["self_attn.o_proj"]).get_nb_trainable_parameters()[0] == 1104


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_and_changes_nothing(merge):
    model = adapted(modules_to_save=["embed_tokens"])  # comes before the first adapter and would be merged
    before, parts = logits(model), [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match="cannot be merged: a nonlinearity"):
        getattr(model, merge)()
    assert torch.equal(logits(model), before)
    assert [name for name, _ in model.named_modules()] == parts


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_an_adapter_for_each_row_is_refused_and_not_ignored(call):
    model = adapted()
    before = logits(model)
    with pytest.raises(ValueError, match="one adapter per batch"):
        getattr(model, call)(input_ids=IDS, adapter_names=["__base__", "default"])
    assert torch.equal(logits(model), before)


def test_values_that_make_no_sense_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"bottleneck_size is 0.*reduction_factor is 0.*non_linearity is 'mish'"):
        BottleneckConfig(bottleneck_size=0, reduction_factor=0, non_linearity="mish")
    with pytest.raises(ValueError, match=r"dropout is 1\.5.*placement is 'bapna'.*layers_to_transform"):
        BottleneckConfig(dropout=1.5, placement="bapna", layers_to_transform=[0], target_modules=".*o_proj")
    with pytest.raises(ValueError, match="reduction_factor is nan"):
        BottleneckConfig(reduction_factor=float("nan"))


# PEFT's own ways with adapters.


def test_registering_twice_is_harmless():
    register()
    assert add_type() is add_type() is PeftType("BOTTLENECK") is PeftType.BOTTLENECK
    assert [kind.value for kind in PeftType].count("BOTTLENECK") == 1
    assert PEFT_TYPE_TO_CONFIG_MAPPING["BOTTLENECK"] is BottleneckConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.BOTTLENECK] is BottleneckModel


def test_a_second_tuner_of_the_name_is_told(monkeypatch):
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, add_type(), PeftConfig)
    with pytest.raises(ImportError, match=r"another BOTTLENECK already: peft\.config\.PeftConfig"):
        register()


def test_the_front_half_reads_every_field_and_its_choices_from_the_source():
    fields = fields_of("ftcli.worker.tuners.bottleneck.config:BottleneckConfig")
    ours = {name for name in BottleneckConfig.__annotations__ if name not in PeftConfig.__annotations__}
    assert all(fields[name].help for name in ours)
    assert options(fields["placement"]) == ("houlsby", "pfeiffer")
    assert options(fields["non_linearity"]) == ("relu", "gelu", "silu", "tanh")


def test_training_changes_the_adapter_and_nothing_else():
    model = adapted(init_weights=True)
    frozen, ours = copies(model, lambda name: not is_ours(name)), copies(model, is_ours)
    for _ in range(2):  # the down-projection has no gradient while the up-projection is zero
        step(model)
    assert same(copies(model, lambda name: not is_ours(name)), frozen)
    trained = copies(model, is_ours)
    assert not [name for name in ours if torch.equal(trained[name], ours[name])]


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_saved_adapter_reloads_bit_for_bit(tmp_path, low_cpu_mem_usage):
    model = adapted(placement="houlsby", non_linearity="gelu", layers_to_transform=[1])
    step(model)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["reduction_factor"], saved["layers_to_transform"]) == ("BOTTLENECK", 4, [1])
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 2 * 4  # two places, two weights and two biases
    again = PeftModel.from_pretrained(small("llama"), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(again), logits(model))
    assert not any(p.requires_grad for p in again.parameters())


def test_a_saved_adapter_reloads_in_a_process_that_only_imports_ours(tmp_path, models):
    base = AutoModelForCausalLM.from_pretrained(models["llama"])
    model = adapted(base)
    model.save_pretrained(tmp_path)
    code = (
        "import ftcli.worker.tuners, torch\n"
        "from peft import AutoPeftModelForCausalLM\n"
        "torch.set_num_threads(1)\n"
        f"model = AutoPeftModelForCausalLM.from_pretrained({str(tmp_path)!r}).eval()\n"
        f"ids = torch.tensor({IDS.tolist()})\n"
        f"torch.save(model(input_ids=ids, use_cache=False).logits, {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=1200)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(model))


def test_adapters_switch_stack_disable_delete_and_unload():
    base = small("llama")
    plain = logits(base)
    model = adapted(base)
    first = logits(model)
    model.add_adapter("other", config(placement="pfeiffer", bottleneck_size=5, non_linearity="tanh"))
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    second = logits(model)
    assert len({tuple(t.flatten().tolist()) for t in (plain, first, second)}) == 3
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"other"}
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), second)
    model.base_model.set_adapter(["default", "other"])  # one behind the other
    assert not torch.equal(logits(model), first)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("other")
    assert not [name for name, _ in model.named_modules() if name.endswith(".other")]
    assert torch.equal(logits(model), first)
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), plain)
    assert not [m for m in unloaded.modules() if isinstance(m, BottleneckLayer)]


def test_an_adapter_that_reaches_further_than_the_active_one_stays_off():
    model = adapted(placement="pfeiffer")
    first = logits(model)
    model.add_adapter("wide", config(placement="houlsby"))
    assert torch.equal(logits(model), first)
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"default"}


def test_a_layer_by_itself_trains_its_active_adapter_only():
    layer = BottleneckLayer(torch.nn.Linear(4, 6), "one", config(bottleneck_size=2))
    layer.update_layer("two", config(bottleneck_size=3))
    assert all(p.requires_grad for name, p in layer.named_parameters() if ".one." in name)
    assert not [name for name, p in layer.named_parameters() if p.requires_grad and ".two." in name]
    frozen = BottleneckLayer(torch.nn.Linear(4, 6), "one", config(bottleneck_size=2, inference_mode=True))
    assert not [name for name, p in frozen.named_parameters() if p.requires_grad and ".one." in name]


# Number formats.


def test_an_fp32_adapter_works_under_a_bf16_base_and_sums_in_fp32():
    model = adapted(small("llama").to(torch.bfloat16))
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    assert {p.dtype for name, p in model.named_parameters() if is_ours(name)} == {torch.float32}
    x = torch.randn(2, 3, 48, dtype=torch.bfloat16)
    h = layer.base_layer(x).float()
    delta = layer.bottleneck_up["default"](torch.relu(layer.bottleneck_down["default"](h)))
    assert torch.equal(layer(x), (h + delta).to(torch.bfloat16))
    assert logits(model).dtype == torch.bfloat16
    frozen, ours = copies(model, lambda name: not is_ours(name)), copies(model, is_ours)
    step(model)
    assert same(copies(model, lambda name: not is_ours(name)), frozen)
    assert not same(copies(model, is_ours), ours)


def test_adapters_take_the_dtype_of_the_base_where_asked():
    model = get_peft_model(small("llama").to(torch.bfloat16), config(), autocast_adapter_dtype=False)
    model.add_adapter("other", config(), autocast_adapter_dtype=False)
    assert {p.dtype for name, p in model.named_parameters() if is_ours(name)} == {torch.bfloat16}
    assert logits(model).dtype == torch.bfloat16


def in_bf16(model: Any) -> Any:
    """As TRL makes what trains on a quantised base."""
    for name, parameter in model.named_parameters():
        if is_ours(name):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def test_a_bf16_adapter_on_an_fp32_base_leaves_the_residual_in_fp32():
    base = small("llama")
    before = logits(base)
    assert torch.equal(logits(in_bf16(adapted(base, init_weights=True))), before)
    layer = in_bf16(adapted()).base_model.model.model.layers[0].mlp.down_proj
    x = torch.randn(2, 3, 48)
    h = layer.base_layer(x)
    delta = layer.bottleneck_up["default"](torch.relu(layer.bottleneck_down["default"](h.to(torch.bfloat16))))
    assert torch.equal(layer(x), h + delta.float())


def test_autocast_computes_in_bf16_and_gives_the_adapter_fp32_gradients():
    base = small("llama")
    with torch.autocast("cpu", torch.bfloat16):
        before = logits(base)
        assert torch.equal(logits(adapted(base, init_weights=True)), before)
        model = adapted().train()
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    assert {(is_ours(name), p.grad.dtype) for name, p in model.named_parameters() if p.grad is not None} == {
        (True, torch.float32)
    }


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_quantised_base_trains_saves_and_gives_itself_back(bits, models, tmp_path):
    how = {"load_in_8bit": True} if bits == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

    def load() -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(
            models["llama"], quantization_config=BitsAndBytesConfig(**how), device_map="cpu", dtype=torch.float32
        )
        return keeping_numbers(model).eval()

    base = load()
    plain = logits(base)
    assert type(base.model.layers[0].mlp.down_proj).__module__.startswith("bitsandbytes")
    model = adapted(base)
    assert model.get_nb_trainable_parameters()[0] == 2208
    frozen, ours = copies(model, lambda name: not is_ours(name)), copies(model, is_ours)
    step(model)
    assert same(copies(model, lambda name: not is_ours(name)), frozen)
    trained = copies(model, is_ours)
    assert not [name for name in ours if torch.equal(trained[name], ours[name])]
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(load(), tmp_path)), logits(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model.unload()), plain)


# What trainers and users do with a model.


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    calls: list[bool] = []

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        model = adapted()
        down_proj = model.base_model.model.model.layers[0].mlp.down_proj
        down_proj.register_forward_pre_hook(lambda *_: calls.append(checkpointing))
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.train()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(checkpointing=False)
    assert plain
    assert all(is_ours(name) for name in plain)
    assert same(gradients(checkpointing=True), plain)
    assert calls == [False, True, True]  # computed once, and anew for the backward pass


def test_documents_packed_into_a_row_do_not_see_each_other():
    model = adapted()
    packed = IDS.reshape(1, -1)
    positions = torch.arange(8).repeat(2)[None]
    with torch.no_grad():
        together = model(input_ids=packed, position_ids=positions, use_cache=False).logits
    assert torch.allclose(together.reshape(2, 8, -1), logits(model), atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_generating_with_a_cache_gives_the_same_tokens_as_without(kind):
    model = adapted(small(kind))
    options = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 6, "do_sample": False}
    cached, plain = (model.generate(**options, use_cache=cache) for cache in (True, False))
    assert cached.shape == (2, 14)
    assert torch.equal(cached, plain)


def test_sequence_classification_trains_and_saves_its_head(models, tmp_path):
    def load() -> PreTrainedModel:
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_pretrained(models["llama"], num_labels=3).eval()

    model = adapted(load(), task_type="SEQ_CLS")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trainable if not is_ours(name)} == {
        "base_model.model.score.modules_to_save.default.weight"
    }
    model(input_ids=IDS, labels=torch.tensor([0, 2])).loss.backward()
    with torch.no_grad():
        model.base_model.model.score.modules_to_save["default"].weight.add_(1.0)
    model.save_pretrained(tmp_path)
    assert "base_model.model.score.weight" in load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(logits(PeftModel.from_pretrained(load(), tmp_path)), logits(model))


def _trained(trainer: Any, model_dir: Path, folder: Path) -> None:
    """Train, and check what changed and that what is saved is what was trained."""
    frozen, ours = copies(trainer.model, lambda name: not is_ours(name)), copies(trainer.model, is_ours)
    assert sum(tensor.numel() for tensor in ours.values()) == 2208
    trainer.train()
    assert trainer.state.global_step == 2
    assert same(copies(trainer.model, lambda name: not is_ours(name)), frozen)
    assert not same(copies(trainer.model, is_ours), ours)
    trainer.save_model(str(folder))
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    again = PeftModel.from_pretrained(base, folder)
    assert torch.equal(logits(again), logits(trainer.model.eval()))


def _arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_length": 64,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "model_init_kwargs": {"dtype": "float32"},
    }


@pytest.mark.parametrize("packing", [False, True])
def test_sft_trains_it_through_trl(packing, models, tokenizer, tmp_path):
    trainer = SFTTrainer(
        model=str(models["llama"]),
        args=SFTConfig(**_arguments(tmp_path), packing=packing),
        train_dataset=Dataset.from_list([conversation(i) for i in range(8)]),
        processing_class=tokenizer,
        peft_config=config(init_weights=True),
    )
    _trained(trainer, models["llama"], tmp_path / "model")


def test_dpo_trains_it_through_trl_with_the_model_without_it_as_reference(models, tokenizer, tmp_path):
    trainer = DPOTrainer(
        model=str(models["llama"]),
        args=DPOConfig(**_arguments(tmp_path)),
        train_dataset=Dataset.from_list([pair_of_answers(i) for i in range(8)]),
        processing_class=tokenizer,
        peft_config=config(init_weights=True),
    )
    _trained(trainer, models["llama"], tmp_path / "model")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # At the start policy and reference are one, and −ln σ(0) = ln 2; after a step they differ.
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert losses[1] != pytest.approx(0.6931, abs=1e-4)
