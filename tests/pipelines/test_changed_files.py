"""A stage that names files is reused only while they are what its pipeline began with."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftcli import tiny
from ftcli.build.inputs import run_inputs
from ftcli.config.compose import Request
from ftcli.pipelines import pipeline_dir, stage_inputs
from ftcli.pipelines.pipeline_request import pipeline_request
from ftcli.pipelines.stage_specs import pipeline_spec
from ftcli.pipelines.stages import SynthesisStage
from tests.pipelines.test_pipelines import finished_stage, whole

TEMPLATE = "chat_template.jinja"


def test_a_stage_whose_chat_template_was_edited_is_trained_again(here: Path) -> None:
    shutil.copy(tiny.MODEL_DIR / TEMPLATE, "own.jinja")
    spec = whole("run.dir=p", "stages.sft.model.chat_template=own.jinja")
    folder = pipeline_dir.create(spec, ["train", "method=rlhf"])
    stage_inputs.record(spec, folder)
    wanted, title = pipeline_dir.load_request(folder, Request())
    finished_stage(folder, "sft", wanted, {}, title)

    def reused() -> list[str]:
        again, name = pipeline_dir.load_request(folder, Request(overrides=("stages.ppo.method.kl_coef=0.5",)))
        return list(pipeline_dir.reusable_stages(folder, again, here / "new", name))

    assert reused() == ["sft"]
    with open("own.jinja", "a", encoding="utf-8") as file:
        file.write("{# edited #}")
    assert reused() == []


def test_a_stage_whose_principles_were_edited_is_another(here: Path) -> None:
    shutil.copy(tiny.DATA_DIR / "principles.yaml", "own.yaml")
    words = ("method=constitutional", "stages.revisions.make.constitution=own.yaml", "run.dir=p")
    wanted = pipeline_request(Request(overrides=words))
    assert wanted is not None
    spec = pipeline_spec(wanted)
    stage_inputs.record(spec, here)
    known = run_inputs.recorded(here)
    assert known is not None
    stages = {each.name: each.spec for each in spec.stages if isinstance(each, SynthesisStage)}
    assert stage_inputs.changed(known, "revisions", stages["revisions"]) == []
    Path("own.yaml").write_text(Path("own.yaml").read_text().replace("rude", "unkind"))
    assert stage_inputs.changed(known, "revisions", stages["revisions"]) == [
        "stages.revisions.make.constitution:own.yaml"
    ]
    assert stage_inputs.changed(known, "judge", stages["judge"]) == []  # by the built-in ones
