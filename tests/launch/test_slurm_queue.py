"""What is given to Slurm is what a dry run shows, and what Slurm still has is given to it once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.sweeps.sweep_folder import read_sweep

AS_JOB = ("hardware=slurm", "hardware.num_processes=2")
RUN = ("train", "method=sft", *AS_JOB, "run.dir=found")
PIPELINE = ("train", "method=rlhf", *AS_JOB, "run.dir=found")
SEARCH = (
    "sweep", *AS_JOB, "train.learning_rate=interval(1e-4,1e-3)", "sweep.trials=3", "data.eval_share=0.1",
    "sweep.sampler=random", "sweep.pruner=none", "run.dir=found",
)  # fmt: skip
SEARCH_OF_PIPELINES = (
    "sweep", "method=rlhf", *AS_JOB, "stages.ppo.train.learning_rate=interval(1e-6,1e-5)", "sweep.trials=2",
    "sweep.sampler=random", "sweep.pruner=none", "sweep.measure=score", "run.dir=found",
)  # fmt: skip
COMMANDS = {
    "a run": RUN,
    "a pipeline": PIPELINE,
    "a sweep of runs": (*RUN, "-m", "seed=1,2"),
    "a sweep of pipelines": (*PIPELINE, "-m", "seed=1,2"),
    "a search of runs": SEARCH,
    "a search of pipelines": SEARCH_OF_PIPELINES,
}
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cluster(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder at a login node: its sbatch notes what it is given, its squeue shows the file `queue`."""
    (here / "sbatch").write_text('#!/bin/sh\necho "$2" >> submitted\necho 42\n')
    (here / "squeue").write_text('#!/bin/sh\necho "$*" >> asked\ncat queue\n')
    for name in ("sbatch", "squeue"):
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    (here / "queue").write_text("COMPLETED\n")
    return here


def submissions(cluster: Path) -> list[str]:
    """The scripts that were submitted so far."""
    file = cluster / "submitted"
    return file.read_text().splitlines() if file.exists() else []


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_dry_run_shows_what_is_submitted_byte_for_byte(kind, cluster, typed: Typed):
    words = COMMANDS[kind]
    if words[0] == "sweep":
        pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    code, out, _ = typed(*words, "--dry-run")
    assert code == EXIT_DONE
    [_, shown] = out.split("\nwould be submitted with sbatch:\n\n")
    assert not (cluster / "found").exists()
    assert not submissions(cluster)
    assert typed(*words)[0] == EXIT_DONE
    [file] = submissions(cluster)
    assert shown == Path(file).read_text("utf-8")
    assert ("--array=0-" in shown) is (kind not in ("a run", "a pipeline"))


def test_a_dry_run_of_a_resume_shows_what_is_submitted(cluster, typed: Typed):
    assert typed(*RUN)[0] == EXIT_DONE
    resume = ("train", "--resume", "found", "train.max_steps=9")
    code, out, _ = typed(*resume, "--dry-run")
    assert code == EXIT_DONE
    assert typed(*resume)[0] == EXIT_DONE
    assert out.endswith("\nwould be submitted with sbatch:\n\n" + (cluster / "found" / rundir.JOB).read_text("utf-8"))


def test_an_allocation_is_shown_no_text_since_nothing_is_submitted_there(cluster, typed: Typed, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for words in (RUN, PIPELINE):
        assert "would be submitted" not in typed(*words, "--dry-run")[1]


@pytest.mark.parametrize(
    ("kind", "folder", "number"),
    [
        ("a run", "found", "42"),
        ("a pipeline", "found", "42"),
        ("a sweep of runs", "found/seed-2", "42_1"),
        ("a sweep of pipelines", "found/seed-1", "42_0"),
    ],
)
@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING"])
def test_what_slurm_still_has_is_not_submitted_again(kind, folder, number, state, cluster, typed: Typed):
    assert typed(*COMMANDS[kind])[0] == EXIT_DONE
    (cluster / "queue").write_text(f"{state}\n")
    before = content(cluster / "found")
    for more in ((), ("--dry-run",), ("stages.ppo.train.max_steps=9" if "pipe" in kind else "train.max_steps=9",)):
        code, out, err = typed("train", "--resume", folder, *more)
        assert (code, out) == (EXIT_CONFIG, "")
        assert f"its Slurm job {number} " in err
        assert state in err
        assert f"scancel {number} ends it" in err
    assert content(cluster / "found") == before
    assert f"--jobs {number}" in (cluster / "asked").read_text()
    assert len(submissions(cluster)) == 1
    (cluster / "queue").write_text("COMPLETED\nTIMEOUT\nFAILED\n")
    assert typed("train", "--resume", folder)[0] == EXIT_DONE
    assert submissions(cluster)[1:] == [str(cluster / folder / rundir.JOB)]


def test_a_stage_is_the_pipelines_job(cluster, typed: Typed):
    from ftcli.config.compose import Request
    from ftcli.launch import local
    from ftcli.pipelines import pipeline_dir

    assert typed(*PIPELINE)[0] == EXIT_DONE
    wanted, name = pipeline_dir.load_request(cluster / "found", Request())
    stage = wanted.pipeline.stage("sft")
    local.prepare(pipeline_dir.run_spec(stage, wanted, {}, cluster / "found", name), ["train"])
    (cluster / "queue").write_text("RUNNING\n")
    code, _, err = typed("train", "--resume", "found/sft")
    assert code == EXIT_CONFIG
    assert "its Slurm job 42 is at work (RUNNING)" in err


@pytest.mark.parametrize(
    ("kind", "folder", "own"),
    [
        ("a run", "found", {"SLURM_JOB_ID": "42"}),
        (
            "a sweep of runs",
            "found/seed-2",
            {"SLURM_JOB_ID": "44", "SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "1"},
        ),
    ],
)
def test_the_job_itself_resumes_and_another_allocation_does_not(kind, folder, own, cluster, typed: Typed, monkeypatch):
    assert typed(*COMMANDS[kind])[0] == EXIT_DONE
    (cluster / "queue").write_text("RUNNING\n")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert "its Slurm job 42" in typed("train", "--resume", folder)[2]
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    code, _, err = typed("train", "--resume", folder)  # here, where the job would need a GPU
    assert code == EXIT_CONFIG
    assert "its Slurm job" not in err
    assert "GPU" in err


def test_without_squeue_nobody_can_be_asked_and_the_resume_goes_on(cluster, typed: Typed):
    assert typed(*RUN)[0] == EXIT_DONE
    (cluster / "squeue").write_text("#!/bin/sh\nexit 1\n")  # a number that Slurm has forgotten
    assert typed("train", "--resume", "found")[0] == EXIT_DONE
    assert len(submissions(cluster)) == 2


def test_a_cluster_among_several_is_asked_by_its_name(cluster, typed: Typed):
    (cluster / "sbatch").write_text("#!/bin/sh\necho '42;north'\n")
    assert typed(*RUN, "hardware.sbatch={clusters: north}")[0] == EXIT_DONE
    (cluster / "queue").write_text("PENDING\n")
    assert "scancel --clusters=north 42 ends it" in typed("train", "--resume", "found")[2]
    assert "--clusters=north" in (cluster / "asked").read_text()


def test_a_finished_run_is_not_submitted_again(cluster, typed: Typed):
    assert typed(*RUN)[0] == EXIT_DONE
    ended(cluster / "found")
    assert "found is finished; to train further" in typed("train", "--resume", "found")[2]
    assert len(submissions(cluster)) == 1


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"job": "42; rm -rf /", "cluster": ""}', '{"job": 42, "cluster": ""}', '{"job": "42"}',
             '{"job": "42", "cluster": "a b"}'],
)  # fmt: skip
def test_a_note_of_a_job_that_ftcli_did_not_write_is_refused(note, cluster, typed: Typed):
    assert typed(*RUN)[0] == EXIT_DONE
    (cluster / "found" / rundir.SUBMITTED).write_text(note)
    code, _, err = typed("train", "--resume", "found")
    assert code == EXIT_CONFIG
    assert f"{rundir.SUBMITTED}  is damaged" in err
    assert not (cluster / "asked").exists()


def ended(run: Path) -> None:
    """Leave a run as a finished job does."""
    result = {"schema": 1, "eval_loss": {"before": 9.0, "after": 1.0}, "score": None, "seconds": 1.0, "steps": 1}
    rundir.write_json(run / rundir.RESULT, result)


def test_a_sweep_of_pipelines_is_looked_at_and_what_is_open_is_submitted_again(cluster, typed: Typed):
    assert typed(*PIPELINE, "-m", "seed=1,2,3")[0] == EXIT_DONE
    sweep = read_sweep(cluster / "found")
    assert (sweep.array, [job.name for job in sweep.jobs]) == ("42", ["seed-1", "seed-2", "seed-3"])
    (cluster / "queue").write_text("RUNNING\n")
    code, _, err = typed("sweep", "--resume", "found")
    assert code == EXIT_DONE
    assert "array 42 is at work, or waits: 3 of 3 jobs are open" in err
    for name, code in (("seed-1", 3), ("seed-2", 75)):  # bad rows in one; the other was stopped too often
        (cluster / "found" / name / "sft").mkdir()
        run_end.write(cluster / "found" / name / "sft", RunEnd(code=code, message="bad rows"))
    (cluster / "queue").write_text("COMPLETED\n")
    code, out, err = typed("sweep", "--resume", "found")
    assert "stage sft: exit code 3, data: bad rows" in out
    assert [job.end for job in read_sweep(cluster / "found").jobs] == ["failed", None, None]
    [first, second] = submissions(cluster)
    assert Path(second).name == "seed-2-to-seed-3.sbatch"
    for name in ("seed-2", "seed-3"):
        assert f"{cluster}/found/{name}\n" in Path(second).read_text()
    assert first != second


def test_a_job_that_was_resumed_by_itself_is_left_to_its_own_job(cluster, typed: Typed):
    assert typed(*RUN, "-m", "seed=1,2")[0] == EXIT_DONE
    (cluster / "sbatch").write_text('#!/bin/sh\necho "$2" >> submitted\necho 43\n')
    assert typed("train", "--resume", "found/seed-2")[0] == EXIT_DONE
    (cluster / "squeue").write_text('#!/bin/sh\ncase "$*" in *43*) echo RUNNING;; *) echo COMPLETED;; esac\n')
    code, _, err = typed("sweep", "--resume", "found")
    assert code == EXIT_DONE
    assert "seed-2 is at work, or waits, as job 43" in err
    assert submissions(cluster)[2:] == [str(cluster / "found/seed-1" / rundir.JOB)]


@pytest.mark.parametrize("kind", ["runs", "pipelines"])
def test_jobs_that_ask_for_different_hardware_are_no_array(kind, cluster, typed: Typed):
    words = [word for word in (RUN if kind == "runs" else PIPELINE) if "num_processes" not in word]
    for more in ((), ("--dry-run",)):
        code, _, err = typed(*words, "-m", "hardware.num_processes=1,2", *more)
        assert code == EXIT_CONFIG
        assert "the jobs of an array have the same hardware" in err
    assert not (cluster / "found").exists()
    assert main(["check", *words[1:], "hardware.num_processes=1"]) == EXIT_DONE
