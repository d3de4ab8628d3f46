"""Memory estimates: arithmetic worked by hand, and what real models and optimisers keep."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from ftcli.models.families import FAMILIES
from ftcli.models.known_shapes import flat_config
from ftcli.models.layout import Layout
from ftcli.models.parameters import num_parameters
from ftcli.models.read_config import shape_from_layout, shape_from_mapping
from ftcli.models.shape import Shape
from ftcli.peft_methods.lora_counts import lora_parameters
from ftcli.plan import memory
from ftcli.plan.memory import GIB, MemoryEstimate, estimate, optimiser_bytes, weight_bytes
from ftcli.worker.models.architecture import measure
from tests.conftest import REPOSITORY

MODELS = REPOSITORY / "configs" / "model"


def shape_named(name: str) -> Shape:
    return shape_from_mapping(yaml.safe_load((MODELS / f"{name}.yaml").read_text())["shape"])


def measured(shape: Shape, file: Path) -> Shape:
    """The shape, of which a worker has measured what no table says."""
    if shape.known:
        return shape
    config = flat_config(yaml.safe_load(file.read_text())["shape"])
    return shape_from_layout(Layout.from_data(measure(config)["layout"]), config, shape)


LLAMA_2 = shape_named("llama-2-7b")  # 6,738,415,616 parameters, 32 layers, hidden 4096, feed-forward 11008
ROW = {"per_device_batch_size": 1, "sequence_length": 1024}


def estimated(shape: Shape, **options: Any) -> MemoryEstimate:
    """Full fine-tuning in bf16 unless `options` say otherwise."""
    defaults = {"trainable_parameters": num_parameters(shape), "adapter": False, **ROW}
    result = estimate(shape, **{**defaults, **options})
    assert result is not None
    return result


def test_full_fine_tuning_in_bf16_holds_weights_gradients_and_two_states_of_two_bytes():
    parts = estimated(LLAMA_2)
    assert parts.weights_gib == pytest.approx(6_738_415_616 * 2 / 2**30)
    assert parts.gradients_gib == pytest.approx(parts.weights_gib)
    assert parts.optimiser_gib == pytest.approx(2 * parts.weights_gib)


def test_full_fine_tuning_in_fp32_takes_eight_bytes_a_parameter_for_adam():
    parts = estimated(LLAMA_2, weight_bytes=4.0, compute_bytes=4)
    assert parts.optimiser_gib == pytest.approx(6_738_415_616 * 8 / 2**30)


def test_an_adapter_adds_fp32_parameters_to_frozen_weights():
    # r 8 on query and value: 4,194,304 parameters = 16 MiB in fp32, 16 MiB of gradients, 32 MiB of Adam's states.
    parts = estimated(LLAMA_2, trainable_parameters=4_194_304, adapter=True)
    assert parts.weights_gib == pytest.approx(6_738_415_616 * 2 / 2**30 + 16 / 1024)
    assert parts.gradients_gib == pytest.approx(16 / 1024)
    assert parts.optimiser_gib == pytest.approx(32 / 1024)


def test_four_bits_pack_the_linear_layers_only():
    # Llama-3.1-8B: a layer has 2 x 4096 x 4096 + 2 x 4096 x 1024 + 3 x 4096 x 14336 = 218,103,808 packed weights.
    packed, total = 32 * 218_103_808, 8_030_261_248
    # 4 bits, an 8-bit scale a block of 64, an fp32 scale a block of 256 scales
    each = 0.5 + 1 / 64 + 4 / 16384
    expected = (packed * each + (total - packed) * 2) / total
    assert (
        weight_bytes(shape_named("llama"), "bfloat16", "nf4_double")
        == pytest.approx(expected)
        == pytest.approx(0.7101, abs=1e-4)
    )
    assert weight_bytes(shape_named("llama"), "bfloat16") == 2
    assert weight_bytes(None, "float32", "int8") == 1


def test_checkpointing_keeps_one_input_a_layer_and_rebuilds_one_layer():
    # One layer of Llama-2-7B in bf16, bytes a token: two norms, 4096 x (4 fp32 input + 2 normalised) + 4 scale each;
    # inputs of the projections 3 x 4096 x 2, queries, keys and values 3 x 4096 x 2, log-sum-exp 32 x 4;
    # gate, its activation, up and their product 4 x 11008 x 2.
    layer = 2 * (4096 * 6 + 4) + 6 * 4096 * 2 + 32 * 4 + 4 * 11008 * 2
    walked_back = 2 * (2 * 11008 + 4096)
    kept = 32 * 4096 * 2 + layer + walked_back
    assert estimated(LLAMA_2).activations_gib == pytest.approx(1024 * kept / 2**30)
    without = estimated(LLAMA_2, gradient_checkpointing=False)
    assert without.activations_gib == pytest.approx(1024 * (32 * layer + walked_back) / 2**30)


def test_materialised_logits_are_counted_whole_and_fused_ones_by_the_tile():
    # 1024 tokens x 32000 words x (2 bytes + three fp32 copies)
    assert estimated(LLAMA_2, materialises_logits=True).logits_gib == pytest.approx(1024 * 32000 * 14 / 2**30)
    # a tile of 1024 x 32000 in bf16, the fp32 gradient of the hidden states, and that of the trained output head
    fused = 1024 * 32000 * 2 + 4 * 1024 * 4096 + 4 * 32000 * 4096
    assert estimated(LLAMA_2).logits_gib == pytest.approx(fused / 2**30)
    adapter = estimated(LLAMA_2, trainable_parameters=1, adapter=True)
    assert adapter.logits_gib == pytest.approx((1024 * 32000 * 2 + 4 * 1024 * 4096) / 2**30)
    # 8 x 2048 tokens of Llama 3: the tile stays 4096 x 32768
    large = estimated(shape_named("llama"), per_device_batch_size=8, sequence_length=2048)
    assert large.logits_gib == pytest.approx((4096 * 32768 * 2 + 4 * 16384 * 4096 + 4 * 128256 * 4096) / 2**30)


def test_tile_of_the_fused_head_is_that_of_the_installed_trl():
    assert memory.TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert memory.TILE_VOCABULARY == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE


def test_each_process_holds_everything_and_buckets_its_gradients():
    one, two = estimated(LLAMA_2), estimated(LLAMA_2, num_processes=2)
    assert two.gradients_gib == pytest.approx(2 * one.gradients_gib)
    assert two.weights_gib == one.weights_gib
    assert two.optimiser_gib == one.optimiser_gib
    assert two.cuda_context_gib > one.cuda_context_gib


def test_a_reference_model_is_one_more_copy_of_the_weights():
    assert estimated(LLAMA_2).reference_gib == 0
    assert estimated(LLAMA_2, num_reference_models=1).reference_gib == pytest.approx(6_738_415_616 * 2 / 2**30)


def test_the_total_is_the_sum_of_the_parts_and_a_cpu_has_no_context():
    result = estimated(LLAMA_2, cuda=False)
    assert result.cuda_context_gib == 0
    assert result.total_gib == pytest.approx(sum(result.parts().values()))
    assert list(result.parts())[:2] == ["weights", "gradients"]
    assert "cuda_context" in result.parts()


def test_a_model_of_unknown_size_has_no_estimate():
    unknown = replace(LLAMA_2, model_type="novel", num_parameters=None)
    assert estimate(unknown, trainable_parameters=1, adapter=True, **ROW) is None
    assert estimate(replace(unknown, num_parameters=10), trainable_parameters=1, adapter=True, **ROW) is not None


def test_every_optimiser_of_transformers_is_listed():
    assert set(memory.OPTIMISERS) | memory.FACTORED == {name.value for name in OptimizerNames}


@pytest.mark.parametrize(
    "optim",
    ["adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor", "adamw_8bit", "lion_8bit",
     "lion_32bit", "ademamix", "ademamix_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_real_optimiser_keeps_the_bytes_that_are_estimated(optim: str, dtype: torch.dtype, tmp_path: Path):
    side = 512
    weight = torch.nn.Parameter(torch.randn(side, side, dtype=dtype))
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimiser = kind([weight], **options)
    weight.grad = torch.randn_like(weight)
    optimiser.step()
    tensors = [t for t in optimiser.state[weight].values() if isinstance(t, torch.Tensor) and t.numel() > 1]
    # A map of 256 quantiles is shared by all parameters of a model.
    kept = sum(t.numel() * t.element_size() for t in tensors if t.numel() != 256 or side == 256)
    expected = optimiser_bytes(optim, side * side, weight.element_size(), adapter=False, hidden_size=side)
    assert kept == pytest.approx(expected, rel=0.02)


def kept_by_a_real_layer(model_type: str, dtype: torch.dtype, adapter: bool, tokens: int, sizes: dict) -> float:
    """Bytes a token that one more layer saves for the backward pass, parameters and casts of them excluded."""
    totals = []
    for layers in (1, 2):
        config = AutoConfig.for_model(model_type, num_hidden_layers=layers, use_cache=False, pad_token_id=0, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        backbone = model.base_model
        if adapter:
            get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"))
        fixed = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor, kept: dict = kept, fixed: set = fixed) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in fixed and tokens in tensor.shape:
                kept[storage.data_ptr()] = storage
            return tensor

        half = dtype == torch.bfloat16
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            output = backbone(input_ids=torch.zeros(1, tokens, dtype=torch.long))
        totals.append(sum(storage.nbytes() for storage in kept.values()))
        del output
    return (totals[1] - totals[0]) / tokens


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "phi3", "gemma3_text", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_activations_of_a_layer_are_those_that_autograd_saves(model_type: str, dtype: torch.dtype, adapter: bool):
    tokens = 67
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 384}
    sizes |= {"head_dim": 32, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    if model_type == "phi3":
        sizes.pop("head_dim")
    measured = kept_by_a_real_layer(model_type, dtype, adapter, tokens, sizes)
    shape = shape_from_mapping({**sizes, "model_type": model_type, "num_hidden_layers": 1})
    attention = "eager" if model_type == "gemma2" else "sdpa"
    expected = memory.layer_bytes(shape, adapter, dtype.itemsize, tokens, attention)
    assert measured == pytest.approx(expected, rel=0.12)


# Without dropout, of which only the masks would be kept.
UNGATED: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 384, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"ffn_dim": 384, "word_embed_proj_dim": 128, "dropout": 0.0},
    "phi": {"intermediate_size": 384, "resid_pdrop": 0.0},
}


@pytest.mark.parametrize("model_type", UNGATED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_layers_without_a_gate_keep_what_is_estimated(model_type: str, dtype: torch.dtype, adapter: bool):
    tokens, hidden = 67, 128
    sizes = {"hidden_size": hidden, "num_attention_heads": 4, "vocab_size": 64, **UNGATED[model_type]}
    sizes |= {"max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
    measured = kept_by_a_real_layer(model_type, dtype, adapter, tokens, sizes)
    shape = shape_from_mapping({**sizes, "model_type": model_type, "num_hidden_layers": 1})
    expected = memory.layer_bytes(shape, adapter, dtype.itemsize, tokens, "sdpa")
    # Autocast on a CPU leaves layer norms in bf16, where CUDA's runs them in fp32 and keeps their cast input.
    expected -= len(FAMILIES[model_type].norms) * hidden * (4 - dtype.itemsize)
    assert measured == pytest.approx(expected, rel=0.01)


CLAIM = re.compile(r"(full fine-tuning|LoRA in 4 bits|LoRA).* on one (\d+) GB GPU")


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_model_file_that_names_a_gpu_fits_it_by_estimate(file: Path):
    """With r 16, one row of 2048 tokens, checkpointing: the claim leaves room for the allocator's own tenth."""
    claim = CLAIM.search(file.read_text().splitlines()[0])
    if claim is None:
        return
    shape, choice = measured(shape_named(file.stem), file), yaml.safe_load(file.read_text())
    full = claim[1] == "full fine-tuning"
    trained = num_parameters(shape) if full else lora_parameters(shape, 16, "all-linear")
    quantisation = "nf4_double" if "4 bits" in claim[1] else "none"
    result = estimated(
        shape,
        trainable_parameters=trained,
        adapter=not full,
        weight_bytes=weight_bytes(shape, "bfloat16", quantisation),
        trainable_bytes=4.0,
        sequence_length=2048,
        attn_implementation=choice["attn_implementation"],
    )
    assert result.total_gib * GIB < 0.9 * int(claim[2]) * 1e9


def test_looking_at_rows_counts_as_far_as_it_exceeds_a_training_step():
    shape = shape_from_mapping(
        {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 100}
    )  # fmt: skip
    how: dict[str, Any] = {
        "trainable_parameters": 1000, "adapter": True, "per_device_batch_size": 1, "sequence_length": 8, "cuda": False,
    }  # fmt: skip
    plain = estimate(shape, **how)
    assert plain is not None
    assert plain.start_gib == 0
    # 1000 float32 parameters have 4000 bytes of gradients and 8000 of AdamW's states, which are not there yet.
    backward = estimate(shape, **how, start=(2.0**20, True))
    assert backward is not None
    assert backward.start_gib * 2**30 == pytest.approx(2**20 - 12000)
    forward = estimate(shape, **how, start=(2.0**20, False))
    assert forward is not None
    alive = (plain.activations_gib + plain.logits_gib) * 2**30
    assert forward.start_gib * 2**30 == pytest.approx(max(0, 2**20 - 12000 - alive))
    assert forward.total_gib == pytest.approx(plain.total_gib + forward.start_gib)
