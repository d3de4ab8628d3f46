"""One job for every command: which kind it is, is decided in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.cli import COMMANDS, jobs, report, train
from ftcli.cli.jobs.pipeline import PipelineFolder, PipelineJob
from ftcli.cli.jobs.run import RunFolder, RunJob
from ftcli.cli.jobs.synthesis import SynthesisFolder
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir
from ftcli.synthesis.synthesis_spec import FILE
from tests.conftest import REPOSITORY
from tools.source_tree import read_house


def test_a_request_is_resolved_to_what_its_method_names(here):
    assert isinstance(jobs.resolve(Request(overrides=("method=dpo",))), RunJob)
    assert isinstance(jobs.resolve(Request(overrides=("method=rlhf",))), PipelineJob)


def test_a_folder_is_resolved_to_what_lies_in_it(here: Path):
    for name, file in (("run", rundir.SPEC), ("whole", rundir.PIPELINE), ("whole/judge", FILE)):
        (here / name).mkdir()
        (here / name / file).write_text("{}", encoding="utf-8")
    assert jobs.resolve_folder("run", "--resume run") == RunFolder(here.resolve() / "run")
    assert jobs.resolve_folder("whole", "--resume whole") == PipelineFolder(here.resolve() / "whole")
    assert isinstance(jobs.resolve_folder("whole/judge", "--resume whole/judge"), SynthesisFolder)
    with pytest.raises(ConfigError, match="nothing is not a run"):
        jobs.resolve_folder("nothing", "--resume nothing")


@pytest.mark.parametrize("flag", ["--resume", "--from"])
def test_a_stage_that_makes_data_goes_with_its_pipeline_only(flag, here: Path):
    (here / "whole" / "judge").mkdir(parents=True)
    (here / "whole" / "judge" / FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"ftcli train {flag} whole"):
        train.run([flag, "whole/judge"])
    with pytest.raises(ConfigError, match="no finished item yet"):
        report.run(["whole/judge"])


def test_no_command_knows_the_kinds_of_job():
    house = read_house(REPOSITORY / "ftcli")
    commands = {f"ftcli.cli.{module}" for module, _ in COMMANDS.values()}
    asking = {each.importer for each in house.own_imports if each.target == "ftcli.cli.jobs"}
    assert {"ftcli.cli.check", "ftcli.cli.plan", "ftcli.cli.report", "ftcli.cli.show", "ftcli.cli.train"} <= asking
    kinds = {f"ftcli.cli.jobs.{kind}" for kind in ("run", "pipeline", "synthesis")}
    knowing = {each.importer for each in house.own_imports if each.importer in commands and each.target in kinds}
    assert knowing == set()
