"""Jobs side by side: a GPU each, what all of them share, and processes that are stopped with the sweep."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core import hardware
from ftcli.core.hardware import Gpu
from ftcli.settings.run_spec import LaunchPlan, RunSpec
from ftcli.sweeps.side_by_side import Jobs, run_all, slots_for
from ftcli.sweeps.sweep_folder import SweepJob
from ftcli.sweeps.sweep_request import shared_words
from tests.conftest import REPOSITORY

CARDS = (Gpu("NVIDIA L4", 24.0, (8, 9), 20.0, "GPU-a"), Gpu("NVIDIA L4", 24.0, (8, 9), 23.0, "GPU-b"))


def spec(*words: str) -> RunSpec:
    return spec_of(Request(overrides=("model=tiny", *words)))


def test_jobs_of_one_gpu_run_one_a_gpu_and_others_one_after_the_other(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: CARDS)
    on_card = replace(spec(), launch=LaunchPlan(device="cuda"))
    a, b = {"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert slots_for([on_card, on_card], None) == [a, b]
    assert slots_for([on_card], 3) == [a, b, a]
    assert slots_for([on_card], 1) == [{}]  # which takes the one with most free memory
    assert slots_for([replace(spec(), launch=LaunchPlan(device="cuda", num_processes=2))], None) == [{}]
    assert slots_for([on_card, spec("hardware=cpu")], None) == [{}]  # one of them computes on the CPU
    assert slots_for([spec("hardware=cpu")], 2) == [{}, {}]
    monkeypatch.setattr(hardware, "gpus", lambda: CARDS[:1])
    assert slots_for([on_card], None) == [{}]


def test_jobs_hold_out_the_same_rows_whatever_their_seed_and_share_the_cores(monkeypatch):
    monkeypatch.setattr(hardware, "num_cores", lambda: 8)
    assert shared_words({"": spec("data.eval_share=0.1", "seed=3")}, 1, 2) == [
        "data.split_seed=1",
        "hardware.num_threads=4",
    ]
    assert shared_words({"": spec("data.eval_share=0.1", "data.split_seed=9")}, 1, 1) == []
    assert shared_words({"": spec("seed=3", "hardware.num_threads=2")}, 1, 16) == []
    assert shared_words({"": spec()}, 1, 16) == ["hardware.num_threads=1"]
    # Of a pipeline each stage that holds out a share, by the seed of the first job's.
    stages = {"sft": spec("data.eval_share=0.1"), "dpo": spec()}
    assert shared_words(stages, 5, 1) == ["stages.sft.data.split_seed=5"]


class Numbered:
    """So many jobs, and what became of them."""

    def __init__(self, number: int) -> None:
        self._open = [SweepJob(name=str(each), varied={}, words=()) for each in range(number)]
        self.ends: dict[str, tuple[int, bool]] = {}

    def next(self) -> SweepJob | None:
        return self._open.pop(0) if self._open else None

    def is_hopeless(self, job: SweepJob) -> bool:
        return False

    def ended(self, job: SweepJob, code: int, *, stopped: bool) -> None:
        self.ends[job.name] = code, stopped


@pytest.fixture
def _found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.mark.usefixtures("_found")
def test_a_job_that_fails_ends_no_other_and_each_has_its_output(here: Path):
    queue, said = Numbered(3), list[str]()

    def command(job: SweepJob) -> list[str]:
        return ["--version"] if job.name != "1" else ["nothing"]

    jobs = Jobs(command=command, slots=[{}, {}], log=lambda job: here / f"{job.name}.txt", say=said.append)
    assert run_all(queue, jobs) is None
    assert queue.ends == {"0": (0, False), "1": (2, False), "2": (0, False)}
    assert (here / "0.txt").read_text(encoding="utf-8").startswith("ftcli ")
    assert "nothing is not a command" in (here / "1.txt").read_text(encoding="utf-8")
    assert sorted(said) == ["job 1: 0", "job 2: 1", "job 3: 2"]


STUB = """\
#!/bin/sh
trap 'exit 75' TERM
[ "$3" = ends ] && exit 0
touch started
[ "$3" = tells ] && kill -TERM $PPID
while true; do sleep 0.05; done
"""


@pytest.fixture
def stub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command in place of ftcli: it waits until it is stopped, ends at once, or sends the sweep a signal."""
    (here / "stub").write_text(STUB, encoding="utf-8")
    (here / "stub").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(here / "stub"))
    return here


def test_a_hopeless_job_is_stopped_and_the_next_one_starts(stub: Path):
    class Watched(Numbered):
        def is_hopeless(self, job: SweepJob) -> bool:
            return job.name == "0" and (stub / "started").exists()

    queue = Watched(2)
    jobs = Jobs(command=lambda job: ["waits" if job.name == "0" else "ends"], slots=[{}], say=lambda _: None)
    assert run_all(queue, jobs) is None
    assert queue.ends == {"0": (75, True), "1": (0, False)}


def test_a_signal_stops_the_jobs_at_work_and_starts_no_other(stub: Path):
    queue = Numbered(3)
    jobs = Jobs(command=lambda job: ["waits", "tells"][int(job.name) % 2 :], slots=[{}, {}], say=lambda _: None)
    assert run_all(queue, jobs) == "SIGTERM"
    assert set(queue.ends) == {"0", "1"}
    assert all(code == 75 and not stopped for code, stopped in queue.ends.values())


@pytest.mark.usefixtures("_found")
def test_a_sweep_prints_its_table_once_for_programs_and_keeps_it(here: Path, capfd, monkeypatch):
    monkeypatch.setattr("ftcli.core.hardware.gpus", lambda: ())
    words = ["train", "-m", "seed=1,2", "hardware=gpu", "model=tiny", "run.dir=s", "--json"]
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert err.count("this machine has no GPU") == 2
    table = json.loads(out)
    assert table == json.loads((here / "s/results.json").read_text(encoding="utf-8"))
    assert [(run["name"], run["state"], run["code"]) for run in table["runs"]] == [
        ("seed-1", "failed", 2), ("seed-2", "failed", 2),
    ]  # fmt: skip
    assert table["runs"][0]["cause"].startswith("exit code 2, configuration")
    assert main(words) == 2
    assert "the directory is not empty" in capfd.readouterr().out  # as JSON too
