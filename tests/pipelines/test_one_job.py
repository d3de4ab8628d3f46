"""A pipeline with hardware=slurm is one job: what is asked for, submitted, resumed and refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.launch import local
from ftcli.pipelines import pipeline_dir
from ftcli.runs import rundir

WORDS = ("method=rlhf", "hardware=slurm", "hardware.num_processes=2")
START = ("train", *WORDS, "run.dir=p")


@pytest.fixture
def sbatch(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory at a login node; the file in which its sbatch notes what it is given."""
    (here / "sbatch").write_text('#!/bin/sh\necho "$2" >> submitted\necho 42\n')
    (here / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return here / "submitted"


def test_the_job_asks_for_the_gpus_of_the_stage_that_has_most_under_the_pipelines_name(typed, here):
    words = (*START, "hardware.account=lab", "stages.ppo.hardware.num_processes=4", "--dry-run")
    code, out, _ = typed(*words)
    assert code == EXIT_DONE
    lines = out.splitlines()
    asked = ("job-name=rlhf-tiny", "account=lab", "nodes=1", "gpus-per-node=4")
    assert {f"#SBATCH --{each}" for each in asked} <= {*lines}
    assert {f"#SBATCH --output={here}/p/slurm-%j.txt", f"run={here}/p"} <= {*lines}
    assert lines[-1] == 'exit "$code"'
    assert not (here / "p").exists()


def test_a_pipeline_is_submitted_and_resumed_as_one_job_and_runs_inside_it(typed, sbatch, here, monkeypatch):
    code, out, err = typed(*START)
    assert (code, out) == (EXIT_DONE, "")
    job = here / "p" / rundir.JOB
    assert f"job 42 from {job}" in err
    assert 'train --resume "$run" &' in job.read_text()
    assert {*rundir.read_pipeline(here / "p")["stages"]} == {"sft", "reward", "ppo"}

    assert main(["train", "--resume", "p", "stages.ppo.train.max_steps=7"]) == EXIT_DONE
    assert rundir.read_pipeline(here / "p")["stages"]["ppo"]["tree"]["train"]["max_steps"] == 7
    assert 'train --resume "$run" &' in job.read_text()  # a job that is queued again may meet the stage finished
    assert sbatch.read_text().splitlines() == [str(job)] * 2

    wanted, name = pipeline_dir.load_request(here / "p", Request())
    local.prepare(pipeline_dir.run_spec(wanted.pipeline.stage("sft"), wanted, {}, here / "p", name), ["train"])
    code, _, err = typed("train", "--resume", "p", "stages.sft.train.max_steps=7")
    assert code == EXIT_CONFIG
    assert "changes a stage that has begun" in err
    assert "inside an allocation" in err
    assert len(sbatch.read_text().splitlines()) == 2

    monkeypatch.setenv("SLURM_JOB_ID", "42")
    code, _, err = typed("train", "--resume", "p")  # here, where the job would need a GPU
    assert code == EXIT_CONFIG
    assert "GPU" in err
    assert len(sbatch.read_text().splitlines()) == 2


def test_the_job_has_the_flags_that_its_pipeline_needs(typed, here):
    judge = ("judge=openai", "judge.model=large", "judge.base_url=http://localhost:8000/v1")
    (here / "groups").mkdir()
    words = ("method=rlaif", *WORDS[1:], *judge, "--config-dir", "groups", "run.dir=p")
    _, out, _ = typed("train", *words, "--dry-run")
    assert f'train --config-dir {here}/groups --allow-endpoint --resume "$run" &' in out


def test_without_sbatch_nothing_is_written(typed, sbatch, here, monkeypatch):
    assert main([*START]) == EXIT_DONE
    before = (here / "p" / rundir.PIPELINE).read_bytes()
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    for words in (("train", *WORDS, "run.dir=other"), ("train", "--resume", "p", "stages.ppo.train.max_steps=7")):
        code, _, err = typed(*words)
        assert code == EXIT_CONFIG
        assert "no sbatch on this machine" in err
    assert not (here / "other").exists()
    assert (here / "p" / rundir.PIPELINE).read_bytes() == before


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("stages.ppo.hardware.time_limit=30", "stages.ppo.hardware.time_limit  is 30, and None for stage sft"),
        ("stages.sft.hardware=cpu", "stages.reward.hardware.type  is slurm, and cpu for stage sft"),
        ("hardware.num_nodes=2", "run on one machine"),
    ],
)
def test_what_is_no_single_job_of_one_machine_is_refused(override, what, typed):
    code, _, err = typed("check", *WORDS, override)
    assert code == EXIT_CONFIG
    assert what in err


def test_stages_on_several_machines_are_refused_without_slurm_too(typed):
    words = ("hardware=multi_node", "hardware.num_nodes=2", "hardware.node_rank=0", "hardware.rendezvous=a:1")
    code, _, err = typed("check", "method=rlhf", *words, "run.dir=p")
    assert code == EXIT_CONFIG
    assert "run on one machine" in err
