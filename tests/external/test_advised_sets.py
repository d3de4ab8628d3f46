"""Advice on the demo sets, unedited: each way is a recipe that checks, fits the named card, and trains."""

from __future__ import annotations

import os

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.launch.local import prepare
from tests.advise.advising import advice, require_fits, written
from tests.conftest import REPOSITORY

DATA = REPOSITORY.parent / "shared" / "data"
NAMES = sorted(path.name for path in DATA.glob("*.json*") if path.name != "dataset_info.json")
PROOF = bool(os.environ.get("FTCLI_PROOF"))

pytestmark = pytest.mark.skipif(not NAMES, reason=f"needs the real demo sets in {DATA.parent.name}/data")


@pytest.mark.parametrize("card", ("24GiB", "t4", "h100") if PROOF else ("24GiB",))
@pytest.mark.parametrize("name", NAMES)
def test_each_way_is_a_recipe_that_fits_the_named_card(name, card, tmp_path):
    require_fits(advice(f"data.path={DATA / name}", f"hardware.gpu={card}"), tmp_path, card)


@pytest.mark.parametrize("name", NAMES if PROOF else ["identity.json"])
def test_the_first_way_for_the_built_in_model_trains(name, tmp_path):
    from ftcli.worker.training.run import train

    [(file, own), *_] = written(advice(f"data.path={DATA / name}", "model=tiny"), tmp_path)
    short = ("train.max_steps=2", "hardware.num_threads=1", "run.score_rows=0", f"run.dir={tmp_path / 'run'}")
    spec = spec_of(Request(overrides=(f"recipe={file}", *own, *short)))
    result = train(prepare(spec, ["train", f"recipe={file}"]))
    assert result["steps"] == 2
    assert result["ledger"]["train"]["rows_bad"] == 0


def test_rows_with_tool_calls_get_a_template_that_writes_them():
    found = advice(f"data.path={DATA / 'glaive_toolcall_en_demo.json'}", "model=tiny")
    assert found.wanted.look.calls == 153
    assert found.ways[0].settings["model.chat_template"] == "qwen3"
