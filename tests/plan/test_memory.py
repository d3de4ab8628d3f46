"""Memory estimates: arithmetic worked by hand, and what real models and optimisers keep."""

from __future__ import annotations

import re
from dataclasses import fields, replace
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
from ftcli.plan import activations, optimiser_states
from ftcli.plan.activations import Pass, layer_bytes, mask_bytes
from ftcli.plan.memory import GIB, PARTS, MemoryEstimate, Surroundings, Weights, estimate, weight_bytes
from ftcli.plan.optimiser_states import optimiser_bytes
from ftcli.plan.sampling_memory import Sampling, key_value_bytes
from ftcli.plan.sharded_memory import Sharding
from ftcli.worker.models.architecture import measure
from ftcli.worker.trainers import cpu_head
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


def estimated(shape: Shape, **options: Any) -> MemoryEstimate:
    """Full fine-tuning in bf16, one row of 1024 tokens, unless `options` say otherwise."""
    given = {"trained": num_parameters(shape), "adapter": False, "rows": 1, "length": 1024, **options}
    weights, how, beside = (
        kind(**{each.name: given.pop(each.name) for each in fields(kind) if each.name in given})
        for kind in (Weights, Pass, Surroundings)
    )
    result = estimate(shape, weights, how, sharding=given.pop("sharding", Sharding()), beside=beside)
    assert not given
    assert result is not None
    return result


def test_full_fine_tuning_in_bf16_holds_weights_gradients_and_two_states_of_two_bytes():
    parts = estimated(LLAMA_2)
    assert parts["weights"] == pytest.approx(6_738_415_616 * 2 / 2**30)
    assert parts["gradients"] == pytest.approx(parts["weights"])
    assert parts["optimiser"] == pytest.approx(2 * parts["weights"])


def test_full_fine_tuning_in_fp32_takes_eight_bytes_a_parameter_for_adam():
    parts = estimated(LLAMA_2, each_bytes=4.0, compute_bytes=4)
    assert parts["optimiser"] == pytest.approx(6_738_415_616 * 8 / 2**30)


def test_an_adapter_adds_fp32_parameters_to_frozen_weights():
    # r 8 on query and value: 4,194,304 parameters = 16 MiB in fp32, 16 MiB of gradients, 32 MiB of Adam's states.
    parts = estimated(LLAMA_2, trained=4_194_304, adapter=True)
    assert parts["weights"] == pytest.approx(6_738_415_616 * 2 / 2**30 + 16 / 1024)
    assert parts["gradients"] == pytest.approx(16 / 1024)
    assert parts["optimiser"] == pytest.approx(32 / 1024)


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
    assert estimated(LLAMA_2)["activations"] == pytest.approx(1024 * kept / 2**30)
    without = estimated(LLAMA_2, checkpointing=False)
    assert without["activations"] == pytest.approx(1024 * (32 * layer + walked_back) / 2**30)


def test_materialised_logits_are_counted_whole_and_fused_ones_by_the_tile():
    # 1024 tokens x 32000 words x (2 bytes + three fp32 copies)
    assert estimated(LLAMA_2, whole_logits=True)["logits"] == pytest.approx(1024 * 32000 * 14 / 2**30)
    # a tile of 1024 x 32000 in bf16, the fp32 gradient of the hidden states, and that of the trained output head
    fused = 1024 * 32000 * 2 + 4 * 1024 * 4096 + 4 * 32000 * 4096
    assert estimated(LLAMA_2)["logits"] == pytest.approx(fused / 2**30)
    adapter = estimated(LLAMA_2, trained=1, adapter=True)
    assert adapter["logits"] == pytest.approx((1024 * 32000 * 2 + 4 * 1024 * 4096) / 2**30)
    # 8 x 2048 tokens of Llama 3: the tile stays 4096 x 32768
    large = estimated(shape_named("llama"), rows=8, length=2048)
    assert large["logits"] == pytest.approx((4096 * 32768 * 2 + 4 * 16384 * 4096 + 4 * 128256 * 4096) / 2**30)


def test_on_a_cpu_a_frozen_head_keeps_no_logits_and_a_trained_one_its_probabilities_where_they_fit():
    states, head = 4 * 1024 * 4096, 4 * 32000 * 4096
    small = {"compute_bytes": 4, "on_cpu": True}
    adapter = estimated(LLAMA_2, trained=1, adapter=True, **small)
    assert adapter["logits"] == pytest.approx((2 * activations.CPU_TILE_BYTES + states) / 2**30)
    trained = estimated(LLAMA_2, **small)
    assert trained["logits"] == pytest.approx(
        (2 * activations.CPU_TILE_BYTES + 1024 * 32000 * 4 + states + head) / 2**30
    )
    longer = estimated(LLAMA_2, length=8192, **small)  # 8 GiB: computed again
    assert longer["logits"] == pytest.approx((2 * activations.CPU_TILE_BYTES + 8 * states + head) / 2**30)


def test_tile_of_the_fused_head_is_that_of_the_installed_trl():
    assert activations.TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert activations.TILE_VOCABULARY == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    assert (activations.CPU_TILE_BYTES, activations.CPU_KEPT_BYTES) == (cpu_head.TILE_BYTES, cpu_head.KEPT_BYTES)


def test_each_process_holds_everything_and_buckets_its_gradients():
    one, two = estimated(LLAMA_2), estimated(LLAMA_2, sharding=Sharding(processes=2))
    assert two["gradients"] == two["buffers"] == one["gradients"]
    assert one["buffers"] == 0
    assert two["weights"] == one["weights"]
    assert two["optimiser"] == one["optimiser"]
    assert two["cuda_context"] > one["cuda_context"]


def test_a_reference_model_is_one_more_copy_of_the_weights():
    assert estimated(LLAMA_2)["reference"] == 0
    assert estimated(LLAMA_2, num_reference_models=1)["reference"] == pytest.approx(6_738_415_616 * 2 / 2**30)


def test_the_total_is_the_sum_of_the_parts_and_a_cpu_has_no_context():
    result = estimated(LLAMA_2, cuda=False)
    assert result["cuda_context"] == 0
    assert result.total_gib == pytest.approx(sum(result.parts().values()))
    assert list(result.parts())[:2] == ["weights", "gradients"]
    assert "cuda_context" in result.parts()


def test_a_model_of_unknown_size_has_no_estimate():
    unknown = replace(LLAMA_2, model_type="novel", num_parameters=None)
    weights, how = Weights(trained=1, adapter=True), Pass(rows=1, length=1024)
    assert estimate(unknown, weights, how) is None
    assert estimate(replace(unknown, num_parameters=10), weights, how) is not None


def test_every_optimiser_of_transformers_is_listed():
    assert set(optimiser_states.OPTIMISERS) | optimiser_states.FACTORED == {name.value for name in OptimizerNames}


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


def kept_by_a_real_layer(
    model_type: str,
    dtype: torch.dtype,
    adapter: bool,
    tokens: int,
    sizes: dict,
    *,
    compiled: bool = False,
    **inputs: Any,
) -> float:
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
            if storage.data_ptr() not in fixed and tokens in tensor.shape and tensor.dtype.is_floating_point:
                kept[storage.data_ptr()] = storage
            return tensor

        # Inductor's partition of forward and backward, without its code.
        run = torch.compile(backbone, backend="aot_eager_decomp_partition") if compiled else backbone
        half = dtype == torch.bfloat16
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=half),
        ):
            output = run(input_ids=torch.zeros(1, tokens, dtype=torch.long), **inputs)
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
    how = Pass(rows=1, length=tokens, compute_bytes=dtype.itemsize, attention=attention)
    expected = layer_bytes(shape, how, adapter=adapter, casts=dtype.itemsize < 4)
    assert measured == pytest.approx(expected, rel=0.12)


GROUPED = {
    "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 384, "head_dim": 32,
    "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_masked_layer_keeps_repeated_heads_and_a_mask(kind: str, dtype: torch.dtype):
    tokens, half = 66, 33
    packed = {"position_ids": torch.cat([torch.arange(half), torch.arange(half)])[None]}
    padded = {"attention_mask": (torch.arange(tokens) >= 5).long()[None]}
    inputs = packed if kind == "packed" else padded
    more = kept_by_a_real_layer("llama", dtype, False, tokens, GROUPED, **inputs)
    more -= kept_by_a_real_layer("llama", dtype, False, tokens, GROUPED)
    # two more heads of keys and of values, 32 wide, and one mask entry for each token that a token may see
    assert more == pytest.approx(dtype.itemsize * (2 * 2 * 32 + tokens))
    shape = shape_from_mapping({**GROUPED, "model_type": "llama", "num_hidden_layers": 1})
    whole = Pass(rows=1, length=tokens, compute_bytes=dtype.itemsize, checkpointing=False)
    masked = replace(whole, masked=True)
    expected = layer_bytes(shape, masked, adapter=False, casts=False) + mask_bytes(shape, masked) / tokens
    expected -= layer_bytes(shape, whole, adapter=False, casts=False)
    assert expected - tokens == pytest.approx(more)  # beside the bool mask that the layers share
    assert mask_bytes(shape, replace(masked, attention="flash_attention_2")) == mask_bytes(shape, whole) == 0


def test_masks_of_long_packed_rows_are_counted_for_each_layer_that_is_kept():
    # 8192 tokens: 64 MiB of bool, and 128 MiB in bf16 for each layer that has not gone backward
    long = {"rows": 1, "length": 8192, "masked": True}
    assert estimated(LLAMA_2, **long)["attention_masks"] == pytest.approx((64 + 128) / 1024)
    assert estimated(LLAMA_2, **long, checkpointing=False)["attention_masks"] == pytest.approx((64 + 32 * 128) / 1024)


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_a_compiled_layer_keeps_what_matrix_products_read(model_type: str, dtype: torch.dtype, adapter: bool):
    tokens = 67
    torch._dynamo.reset()  # what it remembers of one model would be guards of the next
    measured = kept_by_a_real_layer(model_type, dtype, adapter, tokens, GROUPED, compiled=True)
    shape = shape_from_mapping({**GROUPED, "model_type": model_type, "num_hidden_layers": 1})
    how = Pass(rows=1, length=tokens, compute_bytes=dtype.itemsize, compiled=True)
    expected = layer_bytes(shape, how, adapter=adapter, casts=dtype.itemsize < 4)
    assert measured == pytest.approx(expected, rel=0.1)
    assert expected < layer_bytes(shape, replace(how, compiled=False), adapter=adapter, casts=dtype.itemsize < 4)


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
    how = Pass(rows=1, length=tokens, compute_bytes=dtype.itemsize)
    expected = layer_bytes(shape, how, adapter=adapter, casts=dtype.itemsize < 4)
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
        trained=trained,
        adapter=not full,
        each_bytes=weight_bytes(shape, "bfloat16", quantisation),
        trained_bytes=4.0,
        length=2048,
        attention=choice["attn_implementation"].replace("auto", "sdpa"),
    )
    assert result.total_gib * GIB < 0.9 * int(claim[2]) * 1e9


def test_looking_at_rows_counts_as_far_as_it_exceeds_a_training_step():
    shape = shape_from_mapping(
        {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 100}
    )  # fmt: skip
    how: dict[str, Any] = {
        "trained": 1000, "adapter": True, "rows": 1, "length": 8, "cuda": False,
    }  # fmt: skip
    plain = estimated(shape, **how)
    assert plain["start"] == 0
    # 1000 float32 parameters have 4000 bytes of gradients and 8000 of AdamW's states, which are not there yet.
    backward = estimated(shape, **how, start=(2.0**20, True))
    assert backward["start"] * 2**30 == pytest.approx(2**20 - 12000)
    forward = estimated(shape, **how, start=(2.0**20, False))
    alive = (plain["activations"] + plain["logits"]) * 2**30
    assert forward["start"] * 2**30 == pytest.approx(max(0, 2**20 - 12000 - alive))
    assert forward.total_gib == pytest.approx(plain.total_gib + forward["start"])


# --- phases and the parts that only some of them have -----------------------------------------------------------------

QWEN_4B = shape_named("qwen-4b")  # 36 layers, 8 key-value heads of 128, vocabulary 151936, feed-forward 9728


def test_rollouts_are_counted_with_the_keys_and_values_of_all_their_answers():
    # 64 answers of 1536 tokens: 2 x 36 layers x 8 heads x 128 x 2 bytes = 147456 a token, 13.5 GiB; a layer's part once
    # more while it grows
    sampling = Sampling(answers=64, prompt_length=512, answer_length=1024)
    result = estimated(QWEN_4B, trained=1, adapter=True, sampling=sampling)
    assert result["kv_cache"] == pytest.approx(13.5 * 37 / 36)
    # the prompts' forward pass: three tensors of the feed-forward's width and two of the hidden size
    assert result["sampling"] == pytest.approx(64 * 512 * 2 * (3 * 9728 + 2 * 2560) / 2**30)
    assert result.phase == "sampling"
    assert "activations" not in result.parts()
    assert result.total_gib == pytest.approx(sum(result.phases["sampling"].values()))


def test_expanded_latent_attention_is_cached_as_transformers_caches_it():
    latent = {"kv_lora_rank": 64, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24}
    shape = shape_from_mapping({**GROUPED, **latent, "model_type": "deepseek_v3", "num_hidden_layers": 3,
                                "num_key_value_heads": 4, "first_k_dense_replace": 3})  # fmt: skip
    assert key_value_bytes(shape, 2) == 3 * 4 * (32 + 16 + 24) * 2


def test_the_larger_phase_decides():
    few = estimated(LLAMA_2, sampling=Sampling(answers=1, prompt_length=8, answer_length=8))
    assert few.phase == "training"  # gradients are freed before a rollout
    assert "gradients" not in few.phases["sampling"]
    assert few.phases["sampling"]["optimiser"] == few["optimiser"]


def test_loading_holds_the_weights_and_one_tensor_in_its_stored_type():
    shape = shape_named("llama")
    # quantised one layer at a time, the widest 4096 x 14336 in 16 bits: 112 MiB
    each = weight_bytes(shape, "bfloat16", "nf4_double")
    packed = estimated(shape, trained=1, adapter=True, each_bytes=each, quantised=True).phases["loading"]
    assert packed["loading"] == pytest.approx(112 / 1024)
    assert packed["weights"] == pytest.approx(num_parameters(shape) * each / 2**30)
    # masters are made one tensor at a time, the largest the embedding of 128256 x 4096
    masters = estimated(shape, trained_bytes=4.0).phases["loading"]
    assert masters["loading"] == pytest.approx(128256 * 4096 * 2 / 2**30)
    assert estimated(shape, trained=1, adapter=True).phases["loading"]["loading"] == 0


def test_a_quantised_layer_is_turned_to_the_compute_type_to_be_multiplied():
    # the widest: 4096 x 14336 in bf16, 112 MiB
    quantised = estimated(shape_named("llama"), trained=1, adapter=True, each_bytes=0.71, quantised=True)
    assert quantised["dequantisation"] == pytest.approx(112 / 1024)
    assert estimated(shape_named("llama"))["dequantisation"] == 0


def test_autocast_holds_copies_of_what_trains_in_float32():
    masters = {"each_bytes": 2.0, "trained_bytes": 4.0}
    once, often = (estimated(LLAMA_2, **masters, accumulates=each) for each in (False, True))
    assert once["autocast"] == 0  # gradients are not there yet when the copies are
    assert often["autocast"] == pytest.approx(6_738_415_616 * 2 / 2**30)
    assert estimated(LLAMA_2, accumulates=True)["autocast"] == 0  # weights in the type that is computed in
    sampled = estimated(LLAMA_2, **masters, sampling=Sampling(answers=1, prompt_length=8, answer_length=8))
    assert sampled.phases["sampling"]["autocast"] == often["autocast"]


def test_what_the_allocator_cannot_use_is_a_share_of_what_each_pass_allocates():
    result = estimated(LLAMA_2)
    assert result["fragmentation"] == pytest.approx(0.02 * (result["activations"] + result["logits"]))
    assert estimated(LLAMA_2, cuda=False)["fragmentation"] == 0


def test_an_engine_that_sleeps_takes_no_memory_while_the_policy_trains():
    awake, asleep = (
        estimated(LLAMA_2, vllm_bytes=24 * 2**30, vllm_sleeps=sleeps, cuda=True) for sleeps in (False, True)
    )
    assert awake.phases["training"]["vllm"] == awake.phases["sampling"]["vllm"] == 24
    assert asleep.phases["training"]["vllm"] == 0
    assert asleep.phases["sampling"]["vllm"] == 24


def test_every_part_that_is_counted_is_explained():
    sampling = Sampling(answers=1, prompt_length=8, answer_length=8)
    result = estimated(LLAMA_2, sampling=sampling, vllm_bytes=1.0, start=(1.0, True))
    assert {part for parts in result.phases.values() for part in parts} == PARTS.keys()
