"""Why layers and rows are not divided over processes: the reasons, on the installed libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcli.config import key_hints
from ftcli.settings.fields.field_table import REFUSED

ATTENTION = """
import sys
import torch
from torch.distributed import init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel

init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("cp",))
rows = [torch.randn(1, 2, 16, 8) for _ in range(3)]
with context_parallel(mesh, buffers=rows, buffer_seq_dims=[2, 2, 2]):
    torch.nn.functional.scaled_dot_product_attention(*rows, is_causal=True)
"""


def test_the_trainer_refuses_to_checkpoint_a_model_whose_layers_are_divided(tmp_path):
    import torch
    from transformers import Trainer, TrainingArguments

    class Divided(torch.nn.Linear):
        is_distributed_loading_by_transformers = True

    arguments: Any = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="Resuming is not supported for models sharded at load time"):
        Trainer(model=Divided(2, 2), args=arguments)


def test_torch_divides_no_row_on_a_cpu(tmp_path):
    words = [sys.executable, "-c", ATTENTION, str(tmp_path / "store")]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1
    assert "flash_attention_for_cpu.default does not have a sharding strategy" in done.stderr


@pytest.mark.parametrize("name", ["GRPOConfig", "RLOOConfig", "DistillationConfig"])
def test_methods_that_sample_refuse_divided_rows(name, tmp_path):
    import trl
    from accelerate import ParallelismConfig

    with pytest.raises(ValueError, match="does not support sequence-dim parallelism"):
        getattr(trl, name)(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, parallelism_config=ParallelismConfig(cp_size=2)
        )


def test_one_reason_is_given_wherever_somebody_asks(problems):
    [found] = problems("train.parallelism_config={cp_size: 2}")
    assert REFUSED["train.parallelism_config"] in found
    for key in ("tensor_parallel_size", "context_parallel_size", "sequence_parallel_size", "sequence_parallel_degree"):
        [found] = problems(f"hardware.{key}=2")
        assert "there is none (docs/runs.md says why): hardware=fsdp or zero3" in found
        assert (key_hints.remedy(key) or "").startswith("there is none (docs/runs.md")


def test_a_deepspeed_file_cannot_divide_layers_either(problems, here):
    pytest.importorskip("deepspeed")
    Path("ds.json").write_text('{"tensor_parallel": {"autotp_size": 2}, "zero_optimization": {"stage": 1}}')
    [found] = problems("train.deepspeed=ds.json", "hardware=cpu", "hardware.num_processes=2")
    assert "tensor_parallel.autotp_size=2" in found
    assert "the same rows" in found
