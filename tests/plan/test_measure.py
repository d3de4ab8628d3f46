"""An architecture that is in no table is measured once, by a worker; a check never waits for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftcli.build.resolve import run_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.launch import worker_request
from ftcli.models import measured_layouts
from ftcli.models.known_shapes import model_shape, unmeasured
from ftcli.plan.measure import measure
from ftcli.plan.outlook import plan
from ftcli.settings.groups import ModelSettings
from tests.conftest import REPOSITORY

TOKENIZER = REPOSITORY / "ftcli" / "tiny" / "model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_folder(folder: Path, **changes: Any) -> tuple[Path, int]:
    """A folder with the configuration of a small mixture of experts, and its number of parameters; no weights."""
    small = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 48, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2,
        "vocab_size": 600,
    }  # fmt: skip
    config = AutoConfig.for_model("qwen3_moe", **{**small, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    for file in [*TOKENIZER.glob("*token*"), TOKENIZER / "chat_template.jinja"]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder, sum(p.numel() for p in model.parameters())


def request(folder: Path, *more: str) -> Request:
    adapter = () if any(word.startswith("peft=") for word in more) else ("peft=lora",)
    return Request(overrides=(f"model.name_or_path={folder}", *adapter, *more))


def test_a_plan_asks_once_and_then_knows(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder, parameters = model_folder(tmp_path / "model")
    before = run_of(request(folder))
    assert plan(before).parameters is None
    assert before.spec.method["packing"] is False
    said: list[str] = []
    assert measure([before.spec], said.append)
    assert "asking a worker about model_type=qwen3_moe" in said[0]
    assert "packed and separate rows gave the same gradients" in said[1]
    after = run_of(request(folder))
    assert plan(after).parameters == parameters
    # r 16: per layer q 32→32, k and v 32→16, o 32→32; 4 experts of gate and up 32→48, and down 24→32
    attention = 16 * (64 + 48 + 48 + 64)
    assert plan(after).trainable == 2 * (attention + 4 * 16 * (32 + 48) + 4 * 16 * (24 + 32))
    # TRL trains a mixture with a loss for its router, unless that is turned off.
    note = next(note for note in after.spec.notes if note.key == "method.packing")
    assert after.spec.method["packing"] is False
    assert "the loss of its router is a mean over the batch" in note.why
    assert run_of(request(folder, "method.router_aux_loss_coef=0.0")).spec.method["packing"] is True
    monkeypatch.setattr(worker_request, "answers", lambda *_: pytest.fail("asked again"))
    assert not measure([after.spec], said.append)
    # Another size is another configuration; another dtype or path is not.
    other, _ = model_folder(tmp_path / "other", dtype="bfloat16")
    assert unmeasured(ModelSettings(name_or_path=str(other))) is None
    other, _ = model_folder(tmp_path / "other", num_experts=8)
    assert unmeasured(ModelSettings(name_or_path=str(other))) is not None


def test_a_check_and_a_list_ask_nobody(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr("ftcli.launch.worker_request.subprocess.Popen", lambda *_, **__: pytest.fail("asked"))
    folder, _ = model_folder(tmp_path / "model")
    for words in (["check", f"model.name_or_path={folder}"], ["show", "model"], ["list", "model"]):
        assert main(words) == 0, capsys.readouterr().err
    assert not (cache / "ftcli" / "models").exists()


def test_what_cannot_be_measured_is_said_with_its_reason(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _ = model_folder(tmp_path / "model")
    answer = {"reason": "transformers has no such thing"}
    monkeypatch.setattr(worker_request, "answers", lambda *_: iter([answer]))
    said: list[str] = []
    measure([run_of(request(folder)).spec], said.append)
    assert said[1].startswith(f"{folder}: its parameters stay unknown: transformers has no such thing")
    warnings = plan(run_of(request(folder))).warnings
    assert f"the parameters of {folder} are unknown: transformers has no such thing" in warnings


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layout": {}}', '{"layout": {"modules": [[1]]}}'])
def test_a_damaged_entry_is_measured_again(tmp_path: Path, cache: Path, content: str):
    folder, _ = model_folder(tmp_path / "model")
    file = measured_layouts.entry(json.loads((folder / "config.json").read_text()))
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert unmeasured(ModelSettings(name_or_path=str(folder))) is not None
    assert model_shape(ModelSettings(name_or_path=str(folder))) is not None


def test_a_tuner_that_leaves_the_experts_out_says_which_share(tmp_path: Path, cache: Path):
    folder, parameters = model_folder(tmp_path / "model")
    measure([run_of(request(folder)).spec], lambda _: None)
    # 2 layers x 4 experts x (32 x 48 + 24 x 32)
    share = f"{2 * 4 * (32 * 48 + 24 * 32) / parameters:.0%}"
    for words, why in (
        (["peft=lora", "peft.lora_dropout=0.1"], "PEFT adapts stacked parameters without lora_dropout only"),
        (["peft=dora"], "PEFT adapts stacked parameters without use_dora only"),
        (["peft=pissa"], "PEFT adapts stacked parameters without init_lora_weights=pissa only"),
        (["peft=oft"], "PEFT adapts stacked parameters by plain LoRA only"),
    ):
        name = words[0].removeprefix("peft=")
        expected = f"peft={name} reaches no experts, which hold {share} of the parameters: {why}"
        assert expected in plan(run_of(request(folder, *words))).warnings
    assert not [w for w in plan(run_of(request(folder))).warnings if "experts" in w]
