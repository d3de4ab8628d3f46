"""What a plan says that each of two processes holds of a sharded model is what it holds, byte for byte."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from ftcli.build.resolve import run_of
from ftcli.config.compose import Request
from ftcli.plan.outlook import plan
from ftcli.runs import rundir
from tests.whole.conftest import Ranks
from tests.whole.test_sharded import LAYOUTS

COMMON = (
    "method=sft", "method.packing=false", "train.max_steps=1", "train.gradient_accumulation_steps=2",
    "train.per_device_train_batch_size=2", "data.max_rows=16", "run.score_rows=0", "run.dir=run",
    "hardware=cpu", "hardware.num_processes=2", "hardware.num_threads=1",
)  # fmt: skip
STAGE_1 = ("train.deepspeed={zero_optimization: {stage: 1}, train_micro_batch_size_per_gpu: auto, "
           "gradient_accumulation_steps: auto, gradient_clipping: auto}",)  # fmt: skip
ALL = {**LAYOUTS, "zero1": STAGE_1}
_SAMPLE = {("fsdp2", "none"), ("zero2", "none"), ("zero3", "lora")}


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("layout", ALL)
def test_each_of_two_processes_holds_the_planned_bytes(layout: str, peft: str, here: Path, ranks_of: Ranks):
    if (layout, peft) not in _SAMPLE and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof goes through every layout")
    if layout.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    run = run_of(Request(overrides=(*COMMON, *ALL[layout], f"peft={peft}")))
    Path("run").mkdir()
    (Path("run") / rundir.SPEC).write_text(run.spec.to_json(), encoding="utf-8")
    ranks_of("tests.sharded_bytes", "train", str(here / "run"), cwd=here, number=2)
    memory = plan(run).memory
    assert memory is not None
    planned = {part: round(memory[part] * 2**30) for part in ("weights", "gradients", "optimiser")}
    for rank in (0, 1):
        assert json.loads((Path("run") / f"bytes-{rank}.json").read_text()) == planned
