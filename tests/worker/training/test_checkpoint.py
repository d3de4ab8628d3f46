"""Resumed at any saved step, a run ends with the weights of the uninterrupted one, bit for bit.

Each case names what made the plain Trainer's resume differ, where it did.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptEncoderConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    PrinterCallback,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ftcli.core.errors import CheckpointError, ConfigError
from ftcli.runs.checkpoint_kind import CheckpointKind, needed_files
from ftcli.runs.checkpoints import newest_valid, sealed, step_of, verify
from ftcli.worker.training.checkpoint import SafeCheckpoints, with_safe_checkpoints
from ftcli.worker.training.save import save_final

LORA = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
WHOLE, ADAPTER = needed_files(CheckpointKind()), needed_files(CheckpointKind(adapter=True))
SECRET = "hf_0123456789secret"


def sentence(index: int) -> str:
    return " ".join(str((index * 7 + word * (index + 3)) % 10) for word in range(4 + index % 4))


TEXT = Dataset.from_list([{"text": sentence(i)} for i in range(10)])
PAIRS = Dataset.from_list(
    [{"prompt": sentence(i), "chosen": sentence(i + 1), "rejected": sentence(i + 2)} for i in range(10)]
)


@dataclass(frozen=True)
class Case:
    """A training of a few steps; `settings` are the trainer config's."""

    settings: dict[str, Any]
    dpo: bool = False
    peft: Any = None
    wrap: Callable[[Any], Any] = with_safe_checkpoints
    dtype: torch.dtype = torch.float32
    callbacks: tuple[TrainerCallback, ...] = ()
    steps: tuple[int, ...] = ()
    model: str = "llama"
    total: int | None = None

    def trainer(self, folder: Path, model: Path, tokenizer: Any, **changed: Any) -> Any:
        settings = {
            "output_dir": str(folder),
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "report_to": [],
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "max_length": 48,
            "seed": 5,
            **self.settings,
            **changed,
        }
        config_class, trainer_class, rows = (
            (DPOConfig, DPOTrainer, PAIRS) if self.dpo else (SFTConfig, SFTTrainer, TEXT)
        )
        trainer = self.wrap(trainer_class)(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=self.dtype),
            args=config_class(**settings),
            train_dataset=rows,
            eval_dataset=rows.select(range(4)),
            processing_class=tokenizer,
            peft_config=copy.deepcopy(self.peft),
            callbacks=[copy.deepcopy(one) for one in self.callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        follows = bool(self.settings.get("sync_ref_model"))
        trainer.needs = needed_files(CheckpointKind(adapter=self.peft is not None, synced_reference=follows))
        return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    names = one.keys() ^ other.keys()
    both = one.keys() & other.keys()
    return sorted({*names, *(n for n in both if one[n].dtype != other[n].dtype or not torch.equal(one[n], other[n]))})


def until(source: Path, step: int, target: Path) -> Path:
    """What a run killed after its save at `step` leaves; the path of its newest checkpoint."""
    shutil.copytree(source, target)
    for path in sealed(target):
        if (step_of(path) or 0) > step:
            shutil.rmtree(path)
    return target / f"checkpoint-{step}"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random mixture of experts, which is saved under other names than it has in memory."""
    folder = tmp_path_factory.mktemp("mixture")
    set_seed(7)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def start(tmp_path: Path, models: dict[str, Path], mixture: Path, tokenizer: Any) -> Callable[..., Any]:
    """Makes a case's trainer, saving under a folder of this test."""
    found = {**models, "mixture": mixture}

    def make(case: Case, name: str = "whole", **changed: Any) -> Any:
        return case.trainer(tmp_path / name / "checkpoints", found[case.model], tokenizer, **changed)

    return make


# 10 rows in batches of 2 are 5 batches an epoch: 5 steps, or 3 when two are accumulated.
CASES = {
    # Exact in the plain Trainer but for the last step, after which it trained one more.
    "sft_lora_dropout": Case(
        {"max_steps": 8, "lr_scheduler_type": "constant"}, peft=LORA, steps=(1, 2, 3, 4, 5, 6, 7, 8), total=8
    ),
    "dpo_full_accumulating": Case(
        {"num_train_epochs": 2, "gradient_accumulation_steps": 2}, dpo=True, steps=(1, 3, 4), total=6
    ),
    # The patience counter was forgotten, and a run that had stopped went on.
    "early_stopping_and_best": Case(
        {
            "max_steps": 9,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            # The loss falls, so the first one stays the best and patience ends three evaluations later.
            "greater_is_better": True,
            "save_total_limit": 2,
        },
        peft=LORA,
        callbacks=(EarlyStoppingCallback(3),),
        total=4,
    ),
    # The evaluation after the save was lost, and with it the random numbers that it had drawn.
    "evaluation_after_the_save": Case(
        {"num_train_epochs": 2, "eval_strategy": "epoch", "metric_for_best_model": "eval_loss", "logging_steps": 3},
        peft=LORA,
        steps=(5, 10),
        total=10,
    ),
    # The order of the second epoch was drawn anew.
    "rows_grouped_by_length": Case(
        {"num_train_epochs": 2, "train_sampling_strategy": "group_by_length"}, peft=LORA, steps=(7,), total=10
    ),
    "a_sampler_with_its_own_generator": Case(
        {"num_train_epochs": 2, "accelerator_config": {"use_seedable_sampler": False}}, steps=(5, 7), total=10
    ),
    # The synchronised reference was that of the first step again.
    "a_moving_reference": Case(
        {"max_steps": 5, "sync_ref_model": True, "ref_model_sync_steps": 2}, dpo=True, steps=(2, 3), total=5
    ),
    # fp32 state of bf16 weights was cast to bf16.
    "adafactor_on_bf16": Case({"max_steps": 4, "optim": "adafactor"}, dtype=torch.bfloat16, steps=(2,), total=4),
    # A prompt encoder is saved as its output, its weights were lost.
    "prompt_encoder": Case(
        {"max_steps": 4},
        peft=PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
        steps=(2,),
        total=4,
    ),
    # The experts were not found in the checkpoint: a warning, and the weights of the start.
    "mixture_of_experts": Case({"max_steps": 4}, model="mixture", steps=(2,), total=4),
}


@pytest.mark.parametrize("name", CASES)
def test_resumed_at_any_step_a_run_ends_with_the_same_weights(name: str, start: Callable[..., Any], tmp_path: Path):
    case = CASES[name]
    whole = start(case)
    whole.train()
    expected, root = weights(whole), tmp_path / "whole" / "checkpoints"
    assert case.total in (None, whole.state.global_step)
    for step in case.steps or [step_of(path) for path in sealed(root)]:
        left = until(root, step, tmp_path / f"killed-{step}" / "checkpoints")
        resumed = start(case, f"killed-{step}")
        torch.manual_seed(1000 + step)
        resumed.train(resume_from_checkpoint=str(left))
        assert different(expected, weights(resumed)) == [], f"resumed at {step}"
        assert resumed.state.global_step == whole.state.global_step
        assert resumed.state.best_metric == whole.state.best_metric
        logs = [
            [
                {k: v for k, v in row.items() if k not in TIMES and "per_second" not in k and "runtime" not in k}
                for row in one.state.log_history
            ]
            for one in (whole, resumed)
        ]
        assert logs[0] == logs[1]


def test_a_stopped_run_keeps_its_newest_and_its_best_and_ends_with_the_best(start: Callable[..., Any], tmp_path: Path):
    trainer = start(CASES["early_stopping_and_best"])
    trainer.train()
    root = tmp_path / "whole" / "checkpoints"
    assert trainer.state.best_model_checkpoint == str(root / "checkpoint-1")
    assert [step_of(path) for path in sealed(root)] == [1, 4]  # two in all, as save_total_limit says
    own = weights(trainer)
    saved = torch.load(root / "checkpoint-1" / "adapter_exact.pt", weights_only=True)
    assert saved
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items())


@pytest.fixture
def finished(start: Callable[..., Any], tmp_path: Path) -> Path:
    """The checkpoints of three short steps with a LoRA and a token that must not be written."""
    trainer = start(Case({"max_steps": 3, "hub_token": SECRET}, peft=LORA))
    trainer.train()
    save_final(trainer, tmp_path / "whole" / "model")
    return tmp_path / "whole" / "checkpoints"


def test_checkpoints_are_sealed_and_hold_no_pickled_arguments_nor_the_token(finished: Path):
    assert [path.name for path in sealed(finished)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert newest_valid(finished, ADAPTER) == (finished / "checkpoint-3", [])
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]
    files = [path for path in finished.parent.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if path.name == "training_args.bin" or SECRET.encode() in path.read_bytes()] == []


def test_the_final_model_is_the_trained_adapter_and_its_tokenizer(finished: Path):
    model = finished.parent / "model"
    ours, last = (load_file(path / "adapter_model.safetensors") for path in (model, finished / "checkpoint-3"))
    assert different(ours, last) == []
    assert (model / "tokenizer.json").is_file()
    assert not (model.parent / ".staging-model").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_missing_state_stops_the_resume(name: str, finished: Path, start: Callable[..., Any]):
    (finished / "checkpoint-2" / name).unlink()
    trainer = start(Case({"max_steps": 3}, peft=LORA))
    with pytest.raises(CheckpointError) as error:
        trainer.train(resume_from_checkpoint=str(finished / "checkpoint-2"))
    (problem,) = error.value.problems
    assert problem.where == str(finished / "checkpoint-2")
    assert problem.what.startswith(f"{name} is missing")
    assert "--from" in problem.fix
    assert verify(finished / "checkpoint-3", needs=ADAPTER) == []


def test_resuming_sets_damaged_and_half_written_checkpoints_aside(finished: Path, start: Callable[..., Any]):
    (finished / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    (finished / ".staging-3").mkdir()
    trainer = start(Case({"max_steps": 3, "save_total_limit": 1}, peft=LORA))
    trainer.train(resume_from_checkpoint=True)
    assert trainer._resumed == finished / "checkpoint-2"
    assert sorted(path.name for path in finished.glob("*checkpoint-*")) == [".damaged-checkpoint-3", "checkpoint-3"]
    assert newest_valid(finished, ADAPTER) == (finished / "checkpoint-3", [])


def test_where_every_checkpoint_is_damaged_all_are_named(finished: Path, start: Callable[..., Any]):
    for path in sealed(finished):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-3 is damaged: .*checkpoint-1 is damaged: manifest.json"):
        start(Case({"max_steps": 3}, peft=LORA)).train(resume_from_checkpoint=True)


def test_another_adapter_is_not_resumed(finished: Path, start: Callable[..., Any]):
    wider = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="do not match this run's adapter"):
        start(Case({"max_steps": 3}, peft=wider)).train(resume_from_checkpoint=str(finished / "checkpoint-2"))


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"ignore_data_skip": True}, "train.ignore_data_skip"),
        ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, "train.dataloader_persistent_workers"),
        ({"push_to_hub": True, "hub_token": SECRET}, "train.hub_strategy"),
    ],
)
def test_settings_that_forbid_an_exact_resume_are_refused(
    settings: dict[str, Any], where: str, finished: Path, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SFTTrainer, "init_hf_repo", lambda self, token=None: None)
    with pytest.raises(ConfigError) as error:
        start(Case({"max_steps": 3, **settings}, peft=LORA)).train(
            resume_from_checkpoint=str(finished / "checkpoint-2")
        )
    assert [problem.where for problem in error.value.problems] == [where]


def test_more_steps_and_another_cadence_are_taken_on_resume(finished: Path, start: Callable[..., Any]):
    changed = Case(
        {"max_steps": 7, "save_steps": 2, "logging_steps": 7, "eval_strategy": "steps", "eval_steps": 5}, peft=LORA
    )
    trainer = start(changed)
    trainer.train(resume_from_checkpoint=str(finished / "checkpoint-3"))
    assert [step_of(path) for path in sealed(finished)] == [1, 2, 3, 4, 6, 7]
    rows = trainer.state.log_history
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 7]
    assert [row["step"] for row in rows if "eval_loss" in row] == [5, 7]


def test_a_moved_run_finds_its_best_checkpoint_and_refuses_to_go_on_without(start: Callable[..., Any], tmp_path: Path):
    case = CASES["early_stopping_and_best"]
    whole = start(case)
    whole.train()
    (tmp_path / "whole").rename(tmp_path / "moved")
    root = tmp_path / "moved" / "checkpoints"
    newest = root / "checkpoint-4"
    before = json.loads((newest / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert before == str(tmp_path / "whole" / "checkpoints" / "checkpoint-1")
    resumed = start(case, "moved")
    resumed.train(resume_from_checkpoint=str(newest))
    assert resumed.state.best_model_checkpoint == str(root / "checkpoint-1")
    assert different(weights(whole), weights(resumed)) == []
    (root / "checkpoint-1" / "adapter_exact.pt").unlink()
    with pytest.raises(CheckpointError, match="the best checkpoint, which the run should end with, is damaged"):
        start(case, "moved").train(resume_from_checkpoint=str(newest))


def test_without_evaluation_the_weights_are_those_of_the_plain_trainer(start: Callable[..., Any]):
    found = []
    for wrap in (with_safe_checkpoints, lambda trainer_class: trainer_class):
        trainer = start(Case({"max_steps": 4}, peft=LORA, wrap=wrap), f"trainer-{len(found)}")
        trainer.train()
        found.append(weights(trainer))
    assert different(*found) == []


def test_an_evaluation_that_a_stop_skipped_is_made_up_for(start: Callable[..., Any], tmp_path: Path):
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss"}
    whole = start(Case(settings))
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        start(Case(settings, callbacks=(StopAtTwo(),)), "stopped").train()
    assert newest_valid(tmp_path / "stopped" / "checkpoints", WHOLE)[0].name == "checkpoint-2"
    resumed = start(Case(settings), "stopped")
    resumed.train(resume_from_checkpoint=True)
    losses = [[row["eval_loss"] for row in one.state.log_history if "eval_loss" in row] for one in (whole, resumed)]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    assert resumed.state.best_global_step == whole.state.best_global_step


class StopAtTwo(TrainerCallback):
    """Stops behind the save of a step whose evaluation it has no time for."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_evaluation_leaves_the_generators_as_they_were(start: Callable[..., Any]):
    trainer = start(Case({"max_steps": 1}))
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trainer.evaluate()
    assert torch.equal(torch.rand(3), expected)


class FailOnce(TrainerCallback):
    """Breaks off inside the second save, where the Trainer has written and nothing is sealed."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            state.save_to_json = lambda path: (_ for _ in ()).throw(OSError("disk full"))


def test_a_save_that_fails_leaves_the_checkpoint_before_it_as_the_newest(start: Callable[..., Any], tmp_path: Path):
    trainer = start(Case({"max_steps": 3}, peft=LORA, callbacks=(FailOnce(),)))
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    root = tmp_path / "whole" / "checkpoints"
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["checkpoint-1"]
    assert newest_valid(root, ADAPTER) == (root / "checkpoint-1", [])
    start(Case({"max_steps": 3}, peft=LORA)).train(resume_from_checkpoint=True)
    assert [step_of(path) for path in sealed(root)] == [1, 2, 3]


def test_the_wrapped_trainer_keeps_its_name_and_is_made_once():
    wrapped = with_safe_checkpoints(SFTTrainer)
    assert wrapped.__name__ == "SFTTrainer"
    assert wrapped.__bases__ == (SafeCheckpoints, SFTTrainer)
    assert with_safe_checkpoints(SFTTrainer) is wrapped
