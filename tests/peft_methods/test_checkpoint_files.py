"""Front half and worker agree on what a checkpoint must hold, for every kind of run."""

from __future__ import annotations

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.peft_methods.checkpoint_files import files_to_resume
from ftcli.worker.distributed import restarts

HAS = {
    ("method=sft",): ("model.safetensors|model.safetensors.index.json", "optimizer.pt", "rng_state.pth"),
    ("method=sft", "peft=freeze"): ("model.safetensors|model.safetensors.index.json",),
    ("method=dpo", "peft=lora"): ("adapter_exact.pt", "adapter_model.safetensors", "scheduler.pt"),
    ("method=ppo", "method.rewards={ended: 1}"): ("critic.safetensors", "process_state_0.pt"),
    ("method=sft", "hardware=cpu", "hardware.num_processes=2"): ("rng_state_1.pth", "process_state_1.pt"),
    ("method=sft", "hardware=cpu", "hardware.num_processes=2", "train.fsdp=true"): ("pytorch_model_fsdp.bin",),
}


@pytest.mark.parametrize("overrides", HAS)
def test_a_run_knows_the_files_of_its_checkpoints_in_both_halves(overrides: tuple[str, ...]):
    spec = spec_of(Request(overrides=overrides))
    assert set(HAS[overrides]) <= set(files_to_resume(spec))
    assert files_to_resume(spec) == restarts.files_to_resume(spec)
