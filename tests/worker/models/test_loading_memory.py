"""A model is loaded once: mapped from its files on a CPU, straight to the device on a GPU, on the CPU if sharded."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ftcli.methods import get_method
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.worker.models import load
from ftcli.worker.models.load import load_model
from ftcli.worker.training.load import load_base

MEBIBYTE = 2**20


def own_bytes() -> int:
    """Memory that this process alone has, without files that are mapped into it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@contextlib.contextmanager
def peak() -> Any:
    """The most that this process has had at a time, beyond what it began with."""
    most, done, before = [0], threading.Event(), own_bytes()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], own_bytes() - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts a process's own memory")
def test_on_a_cpu_weights_stay_in_their_files_until_they_are_written_to(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=1000, **sizes), dtype=torch.float32)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size="32MB")
    del model
    assert weights > 120 * MEBIBYTE
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    with peak() as most:
        loaded = load_model(ModelSettings(name_or_path=str(tmp_path), dtype="float32"), seed=0, device="cpu")
    assert most[0] < weights / 3
    assert loaded.lm_head.weight.float().abs().sum() > 0  # which can be read


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What from_pretrained was given for each model that was loaded, on a machine whose second GPU is current."""
    calls: list[dict[str, Any]] = []
    own = AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        kept = {name: value for name, value in kwargs.items() if name not in ("device_map", "quantization_config")}
        return own(*args, **kept)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(load, "keeping_numbers", lambda model: model)
    return calls


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, {"": 1}),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, {"": 1}),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, None),
        ({"fsdp": True}, None),
    ],
)
def test_on_a_gpu_weights_go_straight_to_the_device_of_the_process_unless_they_are_sharded(
    train: dict[str, Any], expected: Any, given: list[dict[str, Any]], sft_file: Path, make_spec: Any
) -> None:
    spec = make_spec(sft_file)
    spec = replace(spec, launch=replace(spec.launch, device="cuda"), train={**spec.train, **train})
    load_base(spec, get_method("sft"))
    load_base(spec, get_method("sft"), placed=False)
    assert [each.get("device_map") for each in given] == [expected, None]


def test_on_a_cpu_nothing_is_placed(given: list[dict[str, Any]], sft_file: Path, make_spec: Any) -> None:
    load_base(make_spec(sft_file), get_method("sft"))
    assert "device_map" not in given[0]


def test_what_is_merged_before_it_is_quantised_never_goes_to_the_gpu_whole(
    given: list[dict[str, Any]], sft_file: Path, make_spec: Any, new_run: Any
) -> None:
    from ftcli.worker.training.run import train
    from tests.worker.conftest import LORA

    run_dir = new_run(make_spec(sft_file, peft=LORA, run={"score_rows": 0}), "run")
    train(run_dir)
    given.clear()
    settings = ModelSettings(name_or_path=str(run_dir), dtype="float32")
    load_model(settings, seed=0, device="cuda", quantisation=QuantisationSettings(type="nf4", compute_dtype="float32"))
    assert [each.get("device_map") for each in given] == [None, {"": 1}]
    assert [each.get("quantization_config") is None for each in given] == [True, False]
