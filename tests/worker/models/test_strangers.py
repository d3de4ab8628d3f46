"""Models and adapters of strangers: what their files name is not run, and each would run it where nobody looks."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from ftcli import tiny
from ftcli.core.errors import ConfigError
from ftcli.models.sources import adapter_declares, base_of
from ftcli.models.stored_files import require_own_weights
from ftcli.settings.groups import ModelSettings
from ftcli.worker.models.architecture import measure
from ftcli.worker.models.load import load_model, load_trained, with_adapter
from ftcli.worker.process.exhausted import as_situation

KERNEL = "evil/kernel"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny.MODEL_DIR, folder)
    return folder


def changed(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}), encoding="utf-8")


@pytest.mark.parametrize("stored", [KERNEL, "eager"])
@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_the_attention_kernel_is_the_run_s_and_not_that_of_config_json(stored, init, model: Path):
    changed(model / "config.json", _attn_implementation=stored)
    assert AutoConfig.from_pretrained(model)._attn_implementation == stored, "the control"
    settings = ModelSettings(name_or_path=str(model), attn_implementation="sdpa", init=init)
    loaded: Any = load_model(settings, seed=0, device="cpu")
    assert loaded.config._attn_implementation == "sdpa"
    free: Any = load_model(ModelSettings(name_or_path=str(model), init=init), seed=0, device="cpu")
    assert free.config._attn_implementation == "sdpa", "the architecture's own choice"


def test_measuring_an_architecture_loads_no_kernel(model: Path):
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(Exception, match=r"kernel|evil"):  # the control: it would be fetched
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config, "_attn_implementation": KERNEL}))
    assert "layout" in measure({**config, "_attn_implementation": KERNEL})


def test_code_beside_a_model_is_refused_and_nobody_is_asked_on_the_terminal(model: Path, tmp_path: Path):
    marker = tmp_path / "ran"
    (model / "m.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n", encoding="utf-8")
    changed(model / "config.json", model_type="planted", auto_map={"AutoConfig": "m.C"})
    with pytest.raises(ConfigError, match="--trust-remote-code"):
        load_model(ModelSettings(name_or_path=str(model)), seed=0, device="cpu")
    assert not marker.exists()
    with pytest.raises(Exception, match="C"):  # the control
        AutoConfig.from_pretrained(model, trust_remote_code=True)
    assert marker.exists()


def test_an_index_names_weights_of_its_own_folder_only(model: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    weights = tmp_path / "other" / "w.safetensors"
    shutil.move(model / "model.safetensors", weights)
    names = list(AutoModelForCausalLM.from_pretrained(tiny.MODEL_DIR).state_dict())
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../other/w.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    AutoModelForCausalLM.from_pretrained(model)  # the control: it reads the other folder
    with pytest.raises(ConfigError, match=r"names weights outside of its folder: \.\./other/w"):
        load_model(ModelSettings(name_or_path=str(model)), seed=0, device="cpu")
    changed(model / "model.safetensors.index.json", weight_map={"a": str(weights)})
    with pytest.raises(ConfigError, match="outside of its folder"):
        require_own_weights(str(model))
    changed(model / "model.safetensors.index.json", weight_map=[1])
    with pytest.raises(ConfigError, match="is damaged"):
        require_own_weights(str(model))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    base = AutoModelForCausalLM.from_pretrained(tiny.MODEL_DIR)
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_imports_nothing(adapter: Path, tmp_path: Path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "megatron").mkdir()
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    (tmp_path / "megatron" / "planted.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    # PEFT itself takes only what begins so, since 0.21.
    changed(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="megatron.planted")
    base = AutoModelForCausalLM.from_pretrained(tiny.MODEL_DIR)
    with pytest.raises(ConfigError, match="names a module to import"):
        with_adapter(base, adapter)
    with pytest.raises(ConfigError, match="names a module to import"):
        load_trained(ModelSettings(name_or_path=str(adapter)), seed=0, device="cpu")
    for read in (adapter_declares, base_of):
        with pytest.raises(ConfigError, match="names a module to import"):
            read(adapter)
    assert not marker.exists()
    with pytest.raises(AttributeError):  # the control: it is imported, and then lacks what PEFT calls
        PeftModel.from_pretrained(base, str(adapter))
    assert marker.exists()
    for name in ("megatron.planted", "megatron"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["base_model_name_or_path", "revision", "peft_type"])
def test_what_an_adapter_declares_is_text(name, adapter: Path):
    changed(adapter / "adapter_config.json", **{name: {"a": 1}})
    with pytest.raises(ConfigError, match=f"has {name}="):
        adapter_declares(adapter)


class Planted:
    """A pickle that runs code when it is loaded."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def test_no_pickle_runs_though_a_library_asks_for_it(tmp_path: Path):
    """DeepSpeed's engine of checkpoints asks torch for everything."""
    file, marker = tmp_path / "states.pt", tmp_path / "ran"
    torch.save({"module": Planted(str(marker))}, file)
    with pytest.raises(pickle.UnpicklingError) as raised:
        torch.load(file, weights_only=False)
    assert not marker.exists()
    said = as_situation(raised.value)
    assert said is not None
    assert (said.exit_code, "would run its code" in str(said)) == (5, True)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Planted(str(marker))))
    pickle.loads((tmp_path / "plain.pkl").read_bytes())  # the control
    assert marker.exists()
