"""Pipelines as jobs of a sweep: what a folder says of them grants nothing, and what they hold out is the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.errors import ConfigError
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.sweeps.search_space import space_of
from ftcli.sweeps.sweep_folder import Sweep, SweepJob, begun_stages, ended

ASKS = ("method=rlaif", "judge=openai", "judge.model=m", "judge.base_url=http://localhost:1/v1")


def test_a_job_that_asks_an_endpoint_needs_its_grant_where_a_folder_says_so(here: Path, capsys) -> None:
    folder = here / "sweep"
    folder.mkdir()
    job = SweepJob(name="one", varied={"seed": "1"}, words=(*ASKS, "run.dir=sweep/one"))
    words = [*ASKS, "seed=1,2", "run.dir=sweep"]
    Sweep(folder=folder, kind="grid", words=words, place=os.getcwd(), jobs=[job]).write()
    assert main(["sweep", "--resume", "sweep"]) == 2
    assert "--allow-endpoint" in capsys.readouterr().err
    assert not (folder / "one").exists()


def test_a_setting_of_a_stage_is_searched_as_one_of_a_run() -> None:
    def where(key: str) -> str:
        return f"x.yaml:{key}"

    ends = {"low": 0.1, "high": 1.0}
    written = {"stages.dpo.method.beta": ends, "stages.sample.make.n": [2, 4], "stages.dpo.seed": [1, 2]}
    assert [axis.key for axis in space_of(written, where)] == [*written]
    refused = (
        "stages.judge.judge", "stages.judge.judge.api_key_env", "stages.sft.model", "stages.sft.model.name_or_path",
        "stages.judge.make.constitution", "stages.sft.data.path", "stages.sft", "stages", "stages.sft.run.dir",
    )  # fmt: skip
    for key in refused:
        with pytest.raises(ConfigError):
            space_of({key: ["a", "b"]}, where)


def test_the_end_of_a_pipeline_is_told_by_the_stage_that_ended(here: Path) -> None:
    job = SweepJob(name="one", varied={}, words=())
    sweep = Sweep(folder=here, kind="grid", words=[], place="", jobs=[job])
    for name in ("sft", "reward"):
        (here / "one" / name).mkdir(parents=True)
    rundir.write_json(here / "one" / rundir.PIPELINE, {"stages": {"sft": {"fed": []}, "reward": {}, "ppo": {}}})
    assert [each.name for each in begun_stages(here / "one")] == ["reward", "sft"]
    run_end.write(here / "one/reward", RunEnd(code=3, message="bad rows"))
    assert ended(sweep, job, 3).cause == "stage reward: exit code 3, data: bad rows"
    assert ended(sweep, job, 0).end == "done"
