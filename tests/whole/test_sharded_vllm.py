"""A vLLM engine in each of two processes receives the whole policy, however it is sharded and adapted."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from tests.whole.conftest import Ranks
from tests.whole.test_sharded import LAYOUTS

COMMON = (
    "method=rloo", "method.rewards.regex.pattern='[ae]'", "method.num_generations=2", "method.temperature=2",
    "method.max_completion_length=4", "method.beta=0", "data.path=rows.jsonl", "train.max_steps=3",
    "train.per_device_train_batch_size=4", "train.learning_rate=1e-2", "train.save_strategy=no",
    "run.score_rows=0", "hardware=cpu", "hardware.num_processes=2", "hardware.num_threads=1",
)  # fmt: skip
_SAMPLE = {("fsdp2", "lora"), ("zero3", "lora")}


def received(layout: str, peft: str, here: Path, ranks_of: Ranks) -> list[list[dict[str, torch.Tensor]]]:
    """The weights that the engine of each process received, before each of three steps."""
    name = f"{layout}-{peft}"
    spec = spec_of(Request(overrides=(*COMMON, *LAYOUTS[layout], f"peft={peft}", f"run.dir={name}")))
    # On a CPU there is no vLLM, which check says; a stand-in computes here.
    spec = replace(spec, method={**spec.method, "use_vllm": True})
    Path(name).mkdir()
    (Path(name) / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("tests.standin_vllm", "train", str(here / name), cwd=here, number=2)
    return [torch.load(Path(name) / f"engine-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("peft", ["none", "lora"])
@pytest.mark.parametrize("layout", [each for each in LAYOUTS if each != "copies"])
def test_an_engine_receives_what_it_receives_of_whole_copies(layout: str, peft: str, here: Path, ranks_of: Ranks):
    if (layout, peft) not in _SAMPLE and not os.environ.get("FTCLI_PROOF"):
        pytest.skip("make proof goes through every layout")
    if layout.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    rows = [{"prompt": f"Say {'very ' * (index % 3)}red."} for index in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    whole, sharded = (received(each, peft, here, ranks_of) for each in ("copies", layout))
    for ours, theirs in zip(whole[0], sharded[0], strict=True):
        # Adam's first step moves a weight by the whole rate even where its gradient is no more than rounding.
        close = [torch.isclose(theirs[name], ours[name], atol=1e-5) for name in ours]
        assert ours.keys() == theirs.keys()
        assert sum(int(each.sum()) for each in close) >= 0.999 * sum(each.numel() for each in close)
    assert any(not torch.equal(whole[0][0][name], whole[0][2][name]) for name in whole[0][0]), "nothing was learned"
    first, second = (each[2] for each in sharded)
    assert all(torch.equal(first[name], second[name]) for name in first)
