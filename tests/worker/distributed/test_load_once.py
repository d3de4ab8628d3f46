"""Under FSDP one process of a machine reads the model, and what is learnt is what is learnt where each one does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.settings.groups import ModelSettings
from ftcli.worker.distributed.load_once import layout, load_once
from ftcli.worker.models.load import load_model
from ftcli.worker.models.unread_weights import is_unread
from tests.ranks import Ranks

EACH = "train.fsdp_config={cpu_ram_efficient_loading: false}"
COMMON = (
    "hardware=fsdp", "hardware.device=cpu", "hardware.num_threads=1", "train.max_steps=2", "train.logging_steps=1",
    "train.per_device_train_batch_size=4", "train.learning_rate=1e-3", "train.warmup_steps=0", "run.score_rows=0",
    "data.max_rows=32", "train.save_strategy=no", "train.eval_strategy=no",
)  # fmt: skip
RUNS = {
    "sft": ("method=sft", "method.packing=false"),
    "sft-lora": ("method=sft", "method.packing=false", "peft=lora"),
    "dpo": ("method=dpo",),  # a reference beside the model
    "reward": ("method=reward",),  # a head that is in no file
}


def trained(folder: Path, words: tuple[str, ...], ranks_of: Ranks) -> tuple[bytes, list[list[dict[str, Any]]]]:
    """The weights that a run saves, and the loads of each of its two processes."""
    spec = spec_of(Request(overrides=(*COMMON, *words, f"run.dir={folder}")))
    folder.mkdir()
    (folder / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("tests.loaded_once", "train", str(folder), cwd=folder.parent, number=2)
    (weights,) = (folder / rundir.MODEL).glob("*.safetensors")
    return weights.read_bytes(), [json.loads((folder / f"loads-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
def test_only_the_first_process_has_weights_to_be_sharded_and_all_learn_the_same_bit_for_bit(
    name: str, tmp_path: Path, ranks_of: Ranks
) -> None:
    once, loads = trained(tmp_path / "once", RUNS[name], ranks_of)
    each, others = trained(tmp_path / "each", (*RUNS[name], EACH), ranks_of)
    models = 2 if name == "dpo" else 1
    absent = [[load["absent"] for load in process] for process in loads]
    assert absent == [[False] * models, [True, False][:models]]
    assert [[load["absent"] for load in process] for process in others] == [[False] * models] * 2
    assert once == each
    assert [(tmp_path / "once" / f"switch-{rank}").read_text() for rank in (0, 1)] == ["false", "false"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts a process's own memory")
def test_a_process_that_reads_no_weights_has_no_memory_of_them(tmp_path: Path, ranks_of: Ranks) -> None:
    sizes = {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 8, "num_attention_heads": 5}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=1024, **sizes), dtype=torch.bfloat16)
    shutil.copytree(tiny.MODEL_DIR, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "model")
    masters = sum(4 * each.numel() for each in model.parameters())  # what trains is held in float32
    assert masters > 40 * 2**20
    words = ("train.bf16=true", "model.dtype=bfloat16", f"model.name_or_path={tmp_path / 'model'}", *RUNS["sft"])
    _, [[first], [second]] = trained(tmp_path / "run", words, ranks_of)
    assert first["grown"] > masters * 0.9
    assert second["grown"] < masters / 4


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as one of those that read nothing."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_without_its_weights_a_model_has_all_else() -> None:
    settings = ModelSettings(name_or_path=str(tiny.MODEL_DIR), dtype="float32")
    whole, empty = (load_model(settings, seed=0, device="cpu", read=read) for read in (True, False))
    assert (is_unread(whole), is_unread(empty)) == (False, True)
    assert layout(whole) == layout(empty)
    assert empty.lm_head.weight is empty.model.embed_tokens.weight  # as they are stored
    assert all(own.is_contiguous() and not own.is_meta for own in empty.parameters())
    buffers = dict(empty.named_buffers())
    assert buffers
    assert all(torch.equal(own, buffers[name]) for name, own in whole.named_buffers())
    assert not any(each.isfinite().all() for each in empty(input_ids=torch.tensor([[5, 6]])).logits)


class Counting(nn.Linear):
    """A layer with a buffer that is saved with it."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("seen", torch.zeros(1))


@pytest.mark.usefixtures("alone")
def test_what_fsdp_cannot_send_is_read_by_each_process() -> None:
    asked: list[bool] = []

    def load(read: bool) -> Any:
        asked.append(read)
        return Counting()

    assert load_once(load, required=False)[1] is False
    assert asked == [False, True]
    with pytest.raises(ConfigError, match="cpu_ram_efficient_loading"):
        load_once(load, required=True)
    assert load_once(lambda read: nn.Linear(2, 2), required=True)[1] is True  # type: ignore[arg-type, return-value]
