"""What DeepSpeed writes and reads by itself, and what of it is let through."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path

import pytest
import torch

from ftcli.worker.distributed.deepspeed_files import PLAIN, allow_plain_classes

pytest.importorskip("deepspeed")


class Foreign:
    """A class that no checkpoint of DeepSpeed holds."""


def test_its_plain_classes_are_read_and_no_others(tmp_path: Path):
    module, name = PLAIN[0]
    scaler = getattr(importlib.import_module(module), name)(1.0)
    torch.save({"loss_scaler": scaler, "module": torch.ones(2)}, tmp_path / "states.pt")
    torch.save({"loss_scaler": Foreign()}, tmp_path / "foreign.pt")
    allow_plain_classes()
    engine = importlib.import_module("deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine")
    reads = engine.TorchCheckpointEngine().load
    assert reads(str(tmp_path / "states.pt"))["loss_scaler"].loss_scale == 1.0
    with pytest.raises(pickle.UnpicklingError, match="Foreign"):
        reads(str(tmp_path / "foreign.pt"))


def test_its_profiler_and_monitors_write_where_they_are_told(tmp_path: Path):
    """The controls of what tests/build/test_gate.py refuses."""
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    profiler = importlib.import_module("deepspeed.profiling.flops_profiler").FlopsProfiler(torch.nn.Linear(2, 2))
    profiler.start_profile()
    profiler.model(torch.ones(1, 2))
    profiler.stop_profile()
    profiler.print_model_profile(output_file=str(precious))
    assert "mine" not in precious.read_text(encoding="utf-8")
    config = importlib.import_module("deepspeed.monitor.config").get_monitor_config(
        {"csv_monitor": {"enabled": True, "output_path": str(tmp_path / "out"), "job_name": "../../elsewhere"}}
    )
    assert (config.csv_monitor.output_path, config.csv_monitor.job_name) == (str(tmp_path / "out"), "../../elsewhere")
