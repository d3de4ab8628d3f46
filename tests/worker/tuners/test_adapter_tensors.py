"""An adapter is loaded whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ftcli.core.errors import ConfigError
from ftcli.worker.models.load import with_adapter
from ftcli.worker.models.packing_trial import small_model
from ftcli.worker.tuners.adapter_tensors import lost_by_peft, merged
from tests.matrix.architectures import configuration

PROBE = torch.arange(5, 25)[None]
TENSORS = "adapter_model.safetensors"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=PROBE, use_cache=False).logits


def base(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def saved(folder: Path, model_type: str, **adapter: Any) -> Any:
    """A small model, and on it a random adapter, both saved."""
    small_model(configuration(model_type)).save_pretrained(folder / "base")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, **adapter)
    model = get_peft_model(base(folder), config)
    model.save_pretrained(folder / "adapter")
    return model


@pytest.mark.parametrize("use_dora", [False, True])
def test_layers_that_peft_leaves_out_are_loaded(tmp_path: Path, use_dora: bool):
    """PEFT renames Laguna's shared experts, as if each name were one of an older checkpoint."""
    names = ["shared_experts.up_proj", "shared_experts.down_proj", "q_proj"]
    model = saved(tmp_path, "laguna", target_modules=names, use_dora=use_dora)
    wanted = logits(model)
    with pytest.warns(UserWarning, match="missing adapter keys"):  # else PEFT has been mended
        alone = PeftModel.from_pretrained(base(tmp_path), str(tmp_path / "adapter"))
    assert not torch.equal(logits(alone), wanted)
    assert torch.equal(logits(with_adapter(base(tmp_path), tmp_path / "adapter")), wanted)
    lost = lost_by_peft(model, load_file(tmp_path / "adapter" / TENSORS), "default")
    assert len(lost) == 2 * (3 if use_dora else 2)  # two layers, of A and B and DoRA's magnitude
    assert all(".shared_experts." in name for name in lost)


def test_names_of_an_older_version_are_still_converted(tmp_path: Path):
    """transformers 4 had Mixtral's experts one by one; PEFT stacks what it finds under those names."""
    model = saved(tmp_path, "mixtral", target_modules=["w1", "w2", "w3"]).get_base_model()
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    sizes = {"w1": (hidden, inner), "w2": (inner, hidden), "w3": (hidden, inner)}
    tensors = {}
    for layer in range(model.config.num_hidden_layers):
        for expert in range(model.config.num_local_experts):
            for name, (inputs, outputs) in sizes.items():
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{path}.lora_A.weight"] = torch.randn(2, inputs)
                tensors[f"{path}.lora_B.weight"] = torch.randn(outputs, 2)
    save_file(tensors, tmp_path / "adapter" / TENSORS)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["w1", "w2", "w3"])
    config.save_pretrained(tmp_path / "adapter")
    alone = PeftModel.from_pretrained(base(tmp_path), str(tmp_path / "adapter"))
    assert not torch.equal(logits(alone), logits(base(tmp_path)))
    assert torch.equal(logits(with_adapter(base(tmp_path), tmp_path / "adapter")), logits(alone))


@contextmanager
def edited(folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors of an adapter that is saved for it, stored again as they are left."""
    saved(folder, "llama", target_modules=["q_proj"])
    tensors: dict[str, torch.Tensor] = load_file(folder / "adapter" / TENSORS)
    yield tensors
    save_file(tensors, folder / "adapter" / TENSORS)


def test_an_adapter_that_lacks_a_layer_is_refused(tmp_path: Path):
    with edited(tmp_path) as tensors:
        gone = next(name for name in tensors if "layers.1" in name and "lora_B" in name)
        del tensors[gone]
    with pytest.raises(ConfigError, match=r"would lack 1 tensors, such as model\.layers\.1\.self_attn\.q_proj\.lora_B"):
        with_adapter(base(tmp_path), tmp_path / "adapter")


def test_an_adapter_with_a_layer_that_the_model_has_not_is_refused(tmp_path: Path):
    with edited(tmp_path) as tensors:
        tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 64)
    with pytest.raises(ConfigError, match=r"1 of its tensors have no place in the model, such as model\.layers\.7"):
        with_adapter(base(tmp_path), tmp_path / "adapter")


def test_an_adapter_whose_layers_are_called_otherwise_is_refused_with_both_names(tmp_path: Path):
    with edited(tmp_path) as tensors:
        for name in list(tensors):
            tensors[name.replace(".layers.", ".blocks.")] = tensors.pop(name)
    with pytest.raises(ConfigError, match=r"4 of its tensors .*model\.blocks\.0.*lack 4 .*model\.layers\.0"):
        with_adapter(base(tmp_path), tmp_path / "adapter")


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_an_adapter_on_a_weight_that_others_share_is_not_merged(name: str):
    """The head would change with the embedding: PEFT's merge gives other logits than the adapter."""
    tied = small_model(AutoConfig.for_model("llama", tie_word_embeddings=True))
    model = get_peft_model(tied, LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    wanted = logits(model)
    with pytest.raises(ConfigError, match=rf"it adapts (model\.)?{name}, whose weight other layers share"):
        merged(model, "the run", "serve it as it is")
    assert torch.equal(logits(model), wanted)
    assert not torch.allclose(logits(model.merge_and_unload()), wanted, atol=0.1)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "q_proj"])
def test_an_adapter_on_weights_of_their_own_is_merged(name: str):
    apart = small_model(AutoConfig.for_model("llama", tie_word_embeddings=False))
    model = get_peft_model(apart, LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    wanted = logits(model)
    assert torch.allclose(logits(merged(model, "the run", "serve it as it is")), wanted, atol=1e-3, rtol=1e-3)


def test_layers_that_are_used_at_several_depths_are_not_merged():
    model = small_model(configuration("zamba"))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(ConfigError, match=r"it adapts .*shared_transf\.self_attn\.q_proj"):
        merged(adapted, "the run", "serve it as it is")
