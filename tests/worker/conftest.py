"""Random two-layer models with the tiny tokenizer, small files, and specs made directly: everything in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Gemma2Config, LlamaConfig, PreTrainedModel, Qwen3Config, set_seed
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ftcli import tiny
from ftcli.runs import rundir
from ftcli.settings.groups import DataSettings, HardwareSettings, ModelSettings, QuantisationSettings, RunSettings
from ftcli.settings.run_spec import LaunchPlan, RunSpec
from ftcli.worker.training import run as training

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "head_dim": 16,
}
_CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma2": Gemma2Config}
_WORDS = ("red", "blue", "green", "house", "tree", "river", "stone", "bird", "fish", "moon", "sun", "rain", "leaf")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny.MODEL_DIR)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    """Folders of a random llama, qwen3 and gemma2."""
    folders = {}
    for name, config_class in _CONFIGS.items():
        config = config_class(
            **_SHAPE,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
        set_seed(7)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def word(index: int) -> str:
    """The same word for the same number."""
    return _WORDS[index % len(_WORDS)]


def conversation(index: int) -> dict[str, Any]:
    """A row of messages."""
    asked = f"Say {word(index)} and {word(index * 3 + 1)}."
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": f"{word(index)} {word(index * 3 + 1)}"},
        ]
    }


def pair_of_answers(index: int) -> dict[str, Any]:
    """A preference pair."""
    return {
        "prompt": [{"role": "user", "content": f"Say {word(index)}."}],
        "chosen": [{"role": "assistant", "content": f"Gladly, {word(index)}."}],
        "rejected": [{"role": "assistant", "content": f"No, {word(index + 1)}, you fool."}],
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def sft_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "sft.jsonl", [conversation(i) for i in range(24)])


@pytest.fixture
def dpo_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "dpo.jsonl", [pair_of_answers(i) for i in range(24)])


MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(models: dict[str, Path]) -> MakeSpec:
    """Makes a small spec on the random llama; what is not named goes to the data settings."""

    def make(
        path: Path,
        *,
        method: dict[str, Any] | None = None,
        peft: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        model: str | Path | None = None,
        seed: int = 3,
        run: dict[str, Any] | None = None,
        launch: dict[str, Any] | None = None,
        **data: Any,
    ) -> RunSpec:
        base_train = {
            "learning_rate": 1e-2,
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "lr_scheduler_type": "linear",
        }
        return RunSpec(
            choices={},
            seed=seed,
            run=RunSettings(**{"score_rows": 0, **(run or {})}),
            model=ModelSettings(name_or_path=str(model or models["llama"])),
            data=DataSettings(path=str(path), max_length_tokens=data.pop("max_length_tokens", 128), **data),
            quantisation=QuantisationSettings(),
            hardware=HardwareSettings(),
            method={"name": "sft", **(method or {})},
            peft=peft or {"name": "none"},
            train={**base_train, **(train or {})},
            launch=replace(LaunchPlan(num_threads=1), **(launch or {})),
        )

    return make


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[RunSpec, str], Path]:
    """Writes a spec into a new run directory."""

    def make(spec: RunSpec, name: str) -> Path:
        run_dir = tmp_path / name
        run_dir.mkdir()
        (run_dir / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
        return run_dir

    return make


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """The weights that a run saved."""
    from safetensors.torch import load_file

    (path,) = (run_dir / rundir.MODEL).glob("*.safetensors")
    return load_file(path)


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def look(monkeypatch):
    """Calls a function with the trainer of the next run, before anything trains, or with the model that it saves."""

    def at(*, start: Callable[[Any], None] | None = None, end: Callable[[Any], None] | None = None) -> None:
        make, save = training.build_trainer, training.save_final

        def trainer_of(run: Any) -> Any:
            trainer = make(run)
            if start:
                start(trainer)
            return trainer

        def saved(trainer: Any, path: Path, dtype: torch.dtype | None = None) -> None:
            if end:
                end(trainer.accelerator.unwrap_model(trainer.model))
            save(trainer, path, dtype)

        monkeypatch.setattr(training, "build_trainer", trainer_of)
        monkeypatch.setattr(training, "save_final", saved)

    return at


LORA = {"name": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}
