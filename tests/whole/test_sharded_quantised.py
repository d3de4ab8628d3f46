"""What two processes hold of a 4-bit base that is sharded: half each, and not the whole each."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from tests.whole.conftest import Ranks, steps
from tests.whole.held_bytes import FILE
from tests.whole.test_sharded import COMMON, LAYOUTS

NF4 = ("method=sft", "method.packing=false", "peft=lora", "quantisation=nf4", "run.score_rows=0", "train.max_steps=1")
HIDDEN, FEED_FORWARD, LAYERS = 160, 432, 4
LINEAR = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FEED_FORWARD)
"""Weights of the tiny model's linear layers, which are quantised."""


def trained(folder: Path, layout: str, ranks_of: Ranks) -> tuple[list[dict[str, int]], float]:
    """What each of two processes holds after one step, and the loss of that step."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        request = Request(overrides=(*COMMON, *LAYOUTS[layout], *NF4, f"run.dir={layout}"))
        spec = spec_of(request)
    finally:
        os.chdir(before)
    run = folder / layout
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    ranks_of("tests.whole.held_bytes", "train", str(run), cwd=folder, number=2)
    held = [json.loads((run / FILE.format(rank)).read_text(encoding="utf-8")) for rank in (0, 1)]
    return held, steps(run)[0]["loss"]


@pytest.mark.parametrize("layout", ["fsdp2", "zero3"])
def test_each_process_holds_its_share_of_the_4_bit_weights_and_learns_what_whole_ones_learn(
    layout: str, tmp_path: Path, ranks_of: Ranks
) -> None:
    if layout == "zero3" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    copies, loss = trained(tmp_path, "copies", ranks_of)
    shards, sharded_loss = trained(tmp_path, layout, ranks_of)
    # Half a byte a weight, whole in each process; under FSDP or ZeRO-3 half of that.
    assert [each["quantised"] for each in copies] == [LINEAR // 2] * 2
    assert [each["quantised"] for each in shards] == [LINEAR // 4] * 2
    assert all(each["trained"] < copies[0]["trained"] for each in shards)
    assert sharded_loss == pytest.approx(loss, abs=1e-5)
