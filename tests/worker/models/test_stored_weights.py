"""Models that are stored quantised: planned, loaded as they train, or refused; all methods that transformers knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, PreTrainedModel, set_seed
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationMethod

from ftcli.core.errors import ConfigError
from ftcli.models.stored_quantisation import DEQUANTISED, FORMATS
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.commands.merge import merge
from ftcli.worker.models.bitsandbytes_layers import bitsandbytes_config
from ftcli.worker.models.load import load_model, load_trained
from ftcli.worker.training.run import train
from tests.worker.conftest import LORA

PROBE = torch.arange(5, 29)[None]


def logits_of(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=PROBE, attention_mask=torch.ones_like(PROBE)).logits.float().clone()


def stored(folder: Path, base: Path, tensors: dict[str, torch.Tensor], declared: dict[str, Any]) -> Path:
    """A model folder with other weights and a quantization_config."""
    folder.mkdir()
    for file in base.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": declared}), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def fp8_copy(folder: Path, base: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The linear layers in float8 with a scale per 16 × 16 block, and what they stand for."""
    tensors, plain = {}, {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            tensors[name] = plain[name] = tensor
            continue
        rows, columns = tensor.shape
        blocks = tensor.reshape(rows // 16, 16, columns // 16, 16)
        scale = blocks.abs().amax(dim=(1, 3)) / 448  # the largest float8_e4m3fn
        packed = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        tensors[name] = packed.reshape(rows, columns)
        tensors[name.replace("weight", "weight_scale_inv")] = scale
        plain[name] = (packed.float() * scale[:, None, :, None]).reshape(rows, columns)
    declared = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    return stored(folder, base, tensors, declared), plain


def test_fp8_weights_become_plain_ones_and_train_in_full_or_with_an_adapter_that_merges(
    models, tmp_path, sft_file, make_spec, new_run
):
    folder, plain = fp8_copy(tmp_path / "fp8", models["llama"])
    model = load_model(ModelSettings(name_or_path=str(folder)), seed=0, device="cpu")
    assert not model.is_quantized
    assert not hasattr(model.config, "quantization_config")
    # transformers multiplies in bfloat16, whose eighth bit is 2^-9 of a weight.
    for name, tensor in model.state_dict().items():
        if name in plain:
            assert torch.allclose(tensor.float(), plain[name], rtol=2**-8, atol=1e-6), name
    lora = new_run(make_spec(sft_file, peft=LORA, model=folder), "lora")
    result = train(lora)
    assert result["loss_last"] < result["loss_first"]
    merged = merge({"models": [str(lora)], "to": str(tmp_path / "merged")})
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text(encoding="utf-8"))
    whole = load_model(ModelSettings(name_or_path=merged["model"], dtype="float32"), seed=0, device="cpu")
    trained = load_trained(ModelSettings(name_or_path=str(lora), dtype="float32"), seed=0, device="cpu")
    assert torch.allclose(logits_of(whole), logits_of(trained), atol=0.05)
    full = new_run(make_spec(sft_file, model=folder, train={"learning_rate": 1e-3}), "full")
    assert train(full)["loss_last"] < result["loss_first"]
    saved = json.loads((full / "model/config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in saved


def test_mxfp4_experts_become_plain_ones_and_train(tmp_path, tokenizer, sft_file, make_spec, new_run):
    config = GptOssConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, num_local_experts=2, num_experts_per_tok=1, vocab_size=len(tokenizer), sliding_window=16,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, max_position_embeddings=256,
        layer_types=["full_attention", "sliding_attention"],
    )  # fmt: skip
    set_seed(7)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    base = tmp_path / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    tensors = load_file(base / "model.safetensors")
    ones, places = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj")) and "experts" in name]:
        weight = tensors.pop(name).transpose(1, 2).contiguous()  # (experts, out, in), blocks of 32 along the input
        blocks = weight.reshape(*weight.shape[:2], -1, 32)
        exponent = torch.ceil(torch.log2(blocks.abs().amax(-1) / 6)).clamp(min=-100)
        scaled = blocks / 2 ** exponent[..., None]
        nearest = (scaled.abs()[..., None] - ones).abs().argmin(-1)
        codes = (nearest + 8 * (scaled < 0)).to(torch.uint8)
        tensors[f"{name}_blocks"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
        tensors[f"{name}_scales"] = (exponent + 127).to(torch.uint8)
        signed = torch.where(codes >= 8, -ones[nearest], ones[nearest])
        places[name] = (signed * 2 ** exponent[..., None]).reshape(weight.shape).transpose(1, 2)
    folder = stored(tmp_path / "mxfp4", base, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": []})
    loaded = load_model(ModelSettings(name_or_path=str(folder)), seed=0, device="cpu")
    assert not loaded.is_quantized
    assert len(places) == 4
    state = loaded.state_dict()
    for name, expected in places.items():
        # Four bits and a power of two are exact in bfloat16.
        assert torch.equal(state[name].float(), expected), name
    run_dir = new_run(make_spec(sft_file, peft=LORA, model=folder), "run")
    result = train(run_dir)
    assert result["loss_last"] < result["loss_first"]
    merged = merge({"models": [str(run_dir)], "to": str(tmp_path / "merged"), "dtype": "float32"})
    whole = load_model(ModelSettings(name_or_path=merged["model"], dtype="float32"), seed=0, device="cpu")
    trained = load_trained(ModelSettings(name_or_path=str(run_dir), dtype="float32"), seed=0, device="cpu")
    assert torch.allclose(logits_of(whole), logits_of(trained), atol=1e-4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_stored_bitsandbytes_model_trains_below_an_adapter_and_answers_the_same_again(
    kind, models, tokenizer, tmp_path, sft_file, make_spec, new_run
):
    how = bitsandbytes_config(QuantisationSettings(type=kind, compute_dtype="float32"), AutoModelForCausalLM)
    model = AutoModelForCausalLM.from_pretrained(models["llama"], quantization_config=how)
    folder = tmp_path / kind
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run_dir = new_run(make_spec(sft_file, peft=LORA, model=folder), "run")
    result = train(run_dir)
    assert result["loss_last"] < result["loss_first"]
    again = [load_trained(ModelSettings(name_or_path=str(run_dir)), seed=s, device="cpu") for s in (1, 2)]
    assert torch.equal(logits_of(again[0]), logits_of(again[1]))
    base = load_model(ModelSettings(name_or_path=str(folder)), seed=0, device="cpu")
    assert not torch.allclose(logits_of(again[0]), logits_of(base), atol=1e-3)
    with pytest.raises(ConfigError, match=r"its base is stored quantised \(bitsandbytes\)"):
        merge({"models": [str(run_dir)], "to": str(tmp_path / "merged")})


def test_random_weights_in_the_shape_of_a_stored_quantised_model_are_plain(models, tmp_path):
    folder, _ = fp8_copy(tmp_path / "fp8", models["llama"])
    model = load_model(ModelSettings(name_or_path=str(folder), init="random"), seed=0, device="cpu")
    assert not hasattr(model.config, "quantization_config")


def test_every_method_that_transformers_knows_is_sorted():
    known = {method.value for method in QuantizationMethod}
    mapped = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    assert set(FORMATS) == known | mapped


def _says_never(quantizer: type, name: str) -> bool:
    """Whether a property or method of a quantizer does nothing but return False."""
    found = vars(quantizer).get(name)
    code = (found.fget if isinstance(found, property) else found).__code__ if found else None
    return code is not None and False in code.co_consts and True not in code.co_consts and not code.co_names


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_method_whose_layers_pass_no_gradient_is_refused_or_turned_plain(name):
    about = FORMATS[name]
    quantizer = AUTO_QUANTIZER_MAPPING.get(name) or AUTO_QUANTIZER_MAPPING[f"{name}_4bit"]
    if _says_never(quantizer, "is_trainable") or name == "mxfp4":
        assert about.loads == DEQUANTISED or about.refuses({"quant_method": name})
    if not about.refuses({"quant_method": name, "quant_type": "int8"}) and about.loads != DEQUANTISED:
        # It is loaded as it was stored: by operations of the quantizer, or by modules that it puts in their place.
        own = [each for each in vars(quantizer) if each in ("get_quantize_ops", "_process_model_before_weight_loading")]
        assert own, name
        assert not _says_never(quantizer, "is_serializable"), name
    if about.loads == DEQUANTISED:
        kind = AUTO_QUANTIZATION_CONFIG_MAPPING[name]
        assert "dequantize" in kind.__init__.__code__.co_varnames
