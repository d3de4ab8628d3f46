"""Runs side by side: what differs, which is best, what does not compare, and folders that come from strangers."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.cli.render.run_table import as_csv, as_text
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.sweeps.run_table import RunRow, RunTable, compared, of_runs, of_sweep, row_of, runs_below
from ftcli.sweeps.sweep_folder import Sweep, SweepJob, ended, read_sweep
from tests.conftest import REPOSITORY

V0_1 = REPOSITORY / "tests/fixtures/v0_1/runs"


def run(name: str, *words: str, loss: float | None = None, score: float | None = None, code: int | None = None) -> Path:
    """A run's folder, as a run leaves it."""
    spec = spec_of(Request(overrides=("model=tiny", f"run.dir={name}", *words)))
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    if loss is not None:
        measured: dict[str, Any] = {"eval_loss": {"before": None, "after": loss}, "seconds": 12.5, "steps": 3}
        scored = None if score is None else {"name": "exact_match", "before": 0.0, "after": score, "rows": 8}
        rundir.write_json(folder / rundir.RESULT, {"schema": 1, **measured, "score": scored})
    if code is not None:
        run_end.write(folder, RunEnd(code=code, message="row 3 is broken"))
    return folder


def test_runs_are_ranked_by_held_out_loss_with_what_differs(here: Path, capsys):
    run("a", "data.eval_share=0.1", "data.split_seed=1", "peft=lora", "train.learning_rate=1e-3", loss=2.0)
    run("b", "data.eval_share=0.1", "data.split_seed=1", "seed=7", "train.learning_rate=1e-4", loss=1.0, score=0.5)
    run("c", "data.eval_share=0.1", "data.split_seed=1", code=3)
    assert main(["runs", "compare", "a", "b", "c"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "  run  peft  seed  learning_rate  held-out loss  score  time    state",
        "  b    none  7     0.0001         1.0000         50.0%  12.5 s  done",
        "  a    lora  42    0.001          2.0000         -      12.5 s  done",
        "  c    none  42    -              -              -      -       failed: exit code 3, data: row 3 is broken",
    ]
    assert err == ""
    assert main(["runs", "compare", "a", "b", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["differs"] == ["peft", "seed", "train.learning_rate"]
    assert [(row["name"], row["held_out_loss"], row["score"], row["code"]) for row in data["runs"]] == [
        ("b", 1.0, 0.5, 0), ("a", 2.0, None, 0),
    ]  # fmt: skip
    assert data["runs"][0]["differs"] == {"peft": "none", "seed": 7, "train.learning_rate": 1e-4}
    assert main(["runs", "compare", "a", "b", "--csv"]) == 0
    [first, _] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["name"], first["train.learning_rate"], first["held_out_loss"]) == ("b", "0.0001", "1.0")


def test_what_does_not_compare_is_said(here: Path):
    folders = [
        run("a", "data.eval_share=0.1", "seed=1", loss=1.0),
        run("b", "data.eval_share=0.1", "seed=2", loss=1.0),
        run("c", "method=dpo", loss=1.0),
    ]
    assert len(of_runs(folders[:2]).notes) == 1
    assert "do not hold out the same rows" in of_runs(folders[:2]).notes[0]
    assert "of different methods (dpo, sft)" in of_runs(folders).notes[0]
    same = [run(f"s{seed}", "data.eval_share=0.1", "data.split_seed=5", f"seed={seed}", loss=1.0) for seed in (1, 2)]
    assert of_runs(same).notes == ()


def test_many_differences_stand_on_a_line(here: Path):
    rows = [
        RunRow(name=name, run=name, state="done", settings={f"train.x{n}": n + change for n in range(9)})
        for name, change in (("a", 0), ("b", 1))
    ]
    lines = as_text(compared(rows))
    assert lines[0].split() == [
        "run",
        "held-out",
        "loss",
        "score",
        "time",
        "state",
        *["differs", "from", "the", "first", "in"],
    ]
    assert lines[1].split()[-1] == "-"
    assert "train.x8=9" in lines[2]


def test_a_run_at_work_a_killed_one_and_a_pruned_one_are_told(here: Path):
    folder = run("a")
    assert row_of(folder).state == "prepared"
    (folder / rundir.LOG).touch()
    assert row_of(folder).state == "lost"
    with open(folder / rundir.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert row_of(folder).state == "running"
    assert row_of(run("b", code=75)).state == "stopped"
    sweep = Sweep(folder=Path(), kind="search", words=[], place=str(here))
    sweep.jobs.append(SweepJob(name="b", varied={"seed": "1"}, words=("seed=1",), end="pruned", code=75))
    sweep.jobs.append(SweepJob(name="none", varied={"seed": "2"}, words=(), end="failed", code=2, cause="no"))
    table = of_sweep(sweep, "eval_loss")
    assert [(row.name, row.state, row.cause) for row in table.rows] == [("b", "pruned", ""), ("none", "failed", "no")]
    assert table.differs == ("seed",)


def test_how_a_job_ended_comes_from_its_end_file(here: Path):
    sweep = Sweep(folder=here, kind="grid", words=[], place=str(here))
    run("a", code=7)
    job = SweepJob(name="a", varied={}, words=())
    assert ended(sweep, job, 0).end == "done"
    assert ended(sweep, job, 75).end is None
    assert ended(sweep, job, 75, pruned=True).end == "pruned"
    assert ended(sweep, job, 7).cause == "exit code 7, not_finite: row 3 is broken"
    assert ended(sweep, job, 6).cause.startswith("exit code 6, disk: the disk is full")
    assert ended(sweep, job, -9).cause == "exit code -9, killed: ended by signal 9"


def test_runs_and_pipelines_of_then_are_listed_and_compared(here: Path, capsys):
    for name in ("lora", "rlaif"):
        assert row_of(V0_1 / name).state == "done"
    assert runs_below(V0_1) == sorted([V0_1 / "lora", V0_1 / "rlaif"], key=rundir.run_order)
    assert main(["runs", "compare", str(V0_1 / "lora"), str(V0_1 / "rlaif")]) == 0
    assert main(["runs", "list", str(V0_1)]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3
    assert main(["runs", "list"]) == 0
    assert "there are no runs below runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["[]", '{"schema": 1, "eval_loss": 3}', '{"schema": 99}', "{", '{"schema":1,"steps":"x"}']
)
def test_a_result_that_no_ftcli_wrote_is_told_and_ends_no_list(content, here: Path, capsys):
    run("runs/x/a", loss=1.0)
    (run("runs/x/b") / rundir.RESULT).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError):
        row_of(Path("runs/x/b"))
    assert main(["runs", "compare", "runs/x/a", "runs/x/b"]) == 2
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert "damaged" in out
    assert "runs/x/a" in out


def test_a_folder_with_a_link_that_leads_out_is_not_read(here: Path, capsys):
    run("a", loss=1.0)
    folder = run("b")
    (here / "elsewhere.json").write_text('{"schema": 1}', encoding="utf-8")
    os.symlink(here / "elsewhere.json", folder / rundir.RESULT)
    assert main(["runs", "compare", "a", "b"]) == 2
    assert "leads out of the folder" in capsys.readouterr().err


def test_a_cell_that_a_spreadsheet_would_compute_is_text():
    row = RunRow(name="=cmd()", run="r", state="done", settings={"a": -1, "b": "@x"}, held_out_loss=-0.5)
    [line] = csv.DictReader(io.StringIO(as_csv(RunTable(rows=(row,), differs=("a", "b"), measure="held_out_loss"))))
    assert (line["name"], line["a"], line["b"], line["held_out_loss"]) == ("'=cmd()", "-1", "'@x", "-0.5")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["runs", "compare"], "needs at least two runs"),
        (["runs", "compare", "a"], "needs a second run"),
        (["runs", "compare", "a", "b"], "b is not a run"),
        (["runs", "compare", "a", "a"], "needs a second run"),
        (["runs", "list", "nowhere"], "is not a folder"),
    ],
)
def test_words_that_name_no_runs_are_refused(words, what, here: Path, capsys):
    run("a", loss=1.0)
    assert main(words) == 2
    assert what in capsys.readouterr().err


JOB = {"name": "seed-1", "varied": {"seed": "1"}, "words": ["seed=1"], "end": None, "code": None, "cause": ""}
SWEEP = {
    "schema": 1, "kind": "grid", "words": ["seed=1,2"], "place": "/", "measure": "eval_loss", "recipe": None,
    "jobs": [JOB],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"kind": "other"}, {"words": ["--trust-reward-code"]}, {"words": 3}, {"place": None},
        {"jobs": {}},
        {"jobs": [JOB, JOB]}, {"jobs": [{**JOB, "name": "../a"}]}, {"jobs": [{**JOB, "words": ["--anyway"]}]},
        {"jobs": [{**JOB, "words": ["-m"]}]}, {"jobs": [{**JOB, "end": "won"}]},
        {"jobs": [{**JOB, "varied": {"a": 1}}]},
        {"jobs": [{**JOB, "more": 1}]}, {"jobs": [{**JOB, "code": "0"}]},
    ],
)  # fmt: skip
def test_a_sweep_that_no_ftcli_wrote_is_not_resumed(change, here: Path, capsys):
    Path("s").mkdir()
    (Path("s") / "sweep.json").write_text(json.dumps({**SWEEP, **change}), encoding="utf-8")
    with pytest.raises(ConfigError):
        read_sweep(Path("s"))
    assert main(["sweep", "--resume", "s"]) == 2
    assert not (Path("s") / "seed-1").exists()


def test_a_strangers_sweep_needs_the_flags_of_a_strangers_file(here: Path, capsys):
    Path("s").mkdir()
    words = [
        "model=tiny",
        "train.push_to_hub=true",
        "train.hub_strategy=end",
        "train.hub_model_id=me/x",
        "run.dir=s/seed-1",
        "seed=1",
    ]
    content = {**SWEEP, "place": str(here), "jobs": [{**JOB, "words": words}]}
    (Path("s") / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["sweep", "--resume", "s"]) == 2
    assert "--push-to-hub" in capsys.readouterr().err
    (Path("s") / "sweep.json").write_text(json.dumps({**content, "place": "/"}), encoding="utf-8")
    assert main(["sweep", "--resume", "s"]) == 2
    assert "was started in /" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--resume", "nowhere"], "nowhere is not a sweep"),
        (["--resume", "a"], "fix: ftcli train --resume a"),
        (["--resume", "s", "seed=3"], "cannot change while a sweep goes on"),
        (["--resume", "s", "sweep.trials=9"], "is read only by ftcli sweep"),
    ],
)
def test_what_cannot_be_resumed_is_told(words, what, here: Path, capsys):
    run("a")
    Path("s").mkdir()
    (Path("s") / "sweep.json").write_text(json.dumps({**SWEEP, "place": str(here)}), encoding="utf-8")
    assert main(["sweep", *words]) == 2
    assert what in capsys.readouterr().err


def test_a_done_sweep_is_shown_again_from_its_file(here: Path, capsys):
    run("s/seed-1", loss=1.0)
    sweep = Sweep(folder=Path("s"), kind="grid", words=["seed=1"], place=str(here))
    sweep.put(SweepJob(name="seed-1", varied={"seed": "1"}, words=("seed=1",)))
    sweep.put(replace(sweep.jobs[0], end="done", code=0))
    assert read_sweep(Path("s")).jobs == sweep.jobs
    assert main(["runs", "compare", "s"]) == 0
    assert capsys.readouterr().out.split()[-1] == "done"
