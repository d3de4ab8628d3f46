"""Sweeps of the built-in model: a grid with a job that fails, a search that was killed, a job that is hopeless."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftcli.config.sweep_axes import Range
from ftcli.runs import rundir
from ftcli.settings.run_spec import RunSpec
from ftcli.sweeps.sweep_folder import FILE, RESULTS, STUDY
from ftcli.sweeps.sweep_settings import SweepSettings
from tests.ranks import TIMEOUT_SECONDS
from tests.whole.conftest import Start, Train

SHORT = (
    "model=tiny", "hardware=cpu", "hardware.num_threads=1", "run.score_rows=0", "run.dir=sweep",
    "train.per_device_train_batch_size=2", "train.save_steps=1",
)  # fmt: skip


def rows(number: int, broken: int | None = None) -> str:
    lines = [json.dumps({"prompt": f"What is {n}+{n}?", "completion": f"{n + n}"}) for n in range(number)]
    if broken is not None:
        lines[broken] = json.dumps({"prompt": 7})
    return "\n".join(lines) + "\n"


def content(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_grid_with_a_job_that_fails_ends_in_the_right_table(tmp_path: Path, ftcli_run: Train) -> None:
    (tmp_path / "a.jsonl").write_text(rows(6), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(rows(6, broken=4), encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(rows(4), encoding="utf-8")
    # Row 5 of b is broken: read and not allowed for in one job of the eight.
    varied = ("data.path=a.jsonl,b.jsonl", "data.max_rows=4,6", "data.max_bad_share=0.0,0.5")
    words = (*SHORT, "data.eval_path=held.jsonl", "train.max_steps=1", "sweep.jobs=2")
    done = ftcli_run("train", "-m", *varied, *words, cwd=tmp_path, expect=3)
    assert "7 of 8 jobs done, 1 failed" in done.stderr

    table = content(tmp_path / "sweep" / RESULTS)
    assert table["differs"] == ["data.path", "data.max_rows", "data.max_bad_share"]
    assert table["notes"] == []
    [failed] = [row for row in table["runs"] if row["state"] == "failed"]
    assert table["runs"][-1] == failed
    assert (failed["name"], failed["code"]) == ("path-b.jsonl_max_rows-6_max_bad_share-0", 3)
    assert "b.jsonl:5" in failed["cause"]
    finished = table["runs"][:-1]
    assert [row["state"] for row in finished] == ["done"] * 7
    losses = [row["held_out_loss"] for row in finished]
    assert losses == sorted(losses)
    for row in finished:
        result = content(Path(row["run"] if Path(row["run"]).is_absolute() else tmp_path / row["run"]) / rundir.RESULT)
        assert row["held_out_loss"] == result["eval_loss"]["after"]
        assert row["seconds"] == result["seconds"]
    assert {tuple(row["differs"].values()) for row in table["runs"]} == {
        (path, most, share) for path in ("a.jsonl", "b.jsonl") for most in ("4", "6") for share in ("0.0", "0.5")
    }

    lines = [line.split() for line in done.stdout.splitlines()]
    head = lines.index(["run", "path", "max_rows", "max_bad_share", "held-out", "loss", "score", "time", "state"])
    assert [line[0] for line in lines[head + 1 : head + 9]] == [row["name"] for row in table["runs"]]
    as_csv = ftcli_run("runs", "compare", "sweep", "--csv", cwd=tmp_path).stdout
    assert [row["name"] for row in csv.DictReader(io.StringIO(as_csv))] == [row["name"] for row in table["runs"]]
    again = ftcli_run("sweep", "--resume", "sweep", cwd=tmp_path, expect=3)
    assert "job 1" not in again.stderr  # nothing was left to start


SEARCH = (
    *SHORT, "data.path=rows.jsonl", "data.eval_path=held.jsonl", "train.max_steps=2", "sweep.trials=3",
    "sweep.pruner=none", "sweep.startup_trials=1", "train.learning_rate=tag(log,interval(1e-4,1e-2))",
)  # fmt: skip


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_the_jobs_that_it_would_have_had(
    tmp_path: Path, ftcli_run: Train, ftcli_start: Start
) -> None:
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    from ftcli.sweeps.optuna_study import Study

    (tmp_path / "rows.jsonl").write_text(rows(8), encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(rows(4), encoding="utf-8")

    def begun() -> list[Path]:
        return sorted((tmp_path / "sweep").glob(f"*/{rundir.SPEC}"), key=lambda file: file.stat().st_mtime_ns)

    with ftcli_start("sweep", *SEARCH, cwd=tmp_path) as command:
        until = time.monotonic() + TIMEOUT_SECONDS
        while len(begun()) < 2 and time.monotonic() < until:
            assert command.poll() is None
            time.sleep(0.01)
        second = begun()[1].parent
        psutil.Process(command.pid).send_signal(signal.SIGKILL)
        command.wait(TIMEOUT_SECONDS)
    assert not (tmp_path / "sweep" / RESULTS).exists()
    assert [job["end"] for job in content(tmp_path / "sweep" / FILE)["jobs"]] == ["done", None]

    done = ftcli_run("sweep", "--resume", "sweep", cwd=tmp_path)
    assert f"resuming {second}" in done.stderr
    jobs = content(tmp_path / "sweep" / FILE)["jobs"]
    assert [job["end"] for job in jobs] == ["done"] * 3
    # A search that nobody killed, told the same losses, draws the same values.
    axes = [Range("train.learning_rate", 1e-4, 1e-2, log=True)]
    whole = Study(tmp_path / STUDY, SweepSettings(trials=3, startup_trials=1, pruner="none"), axes)
    for job in jobs:
        number, values = whole.ask()
        assert job["varied"] == values
        folder = tmp_path / "sweep" / job["name"]
        assert RunSpec.load(folder / rundir.SPEC).train["learning_rate"] == float(values["train.learning_rate"])
        whole.tell(number, content(folder / rundir.RESULT)["eval_loss"]["after"])
    best = content(tmp_path / "sweep" / RESULTS)["runs"][0]
    assert best["held_out_loss"] == min(
        content(tmp_path / "sweep" / job["name"] / rundir.RESULT)["eval_loss"]["after"] for job in jobs
    )


@pytest.mark.slow
def test_a_hopeless_job_is_stopped_with_a_checkpoint_and_told_as_pruned(tmp_path: Path, ftcli_run: Train) -> None:
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    (tmp_path / "rows.jsonl").write_text(rows(8), encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(rows(4), encoding="utf-8")
    # The second job warms up over so many steps that it has learnt nothing at the second, and would take minutes.
    (tmp_path / "search.yaml").write_text(
        "# A short job, then a long one.\nftcli: 1\n"
        "sweep:\n  trials: 2\n  startup_trials: 1\n  sampler: random\n  seed: SEED\n"
        "  space:\n    train.max_steps: [2, 20000]\n".replace("SEED", str(_short_first())),
        encoding="utf-8",
    )
    words = (
        *SHORT[:-1], "recipe=search.yaml", "data.path=rows.jsonl", "data.eval_path=held.jsonl", "train.save_steps=5000",
        "train.eval_strategy=steps", "train.eval_steps=2", "train.warmup_steps=0.5", "train.learning_rate=3e-3",
    )  # fmt: skip
    done = ftcli_run("sweep", *words, cwd=tmp_path)
    assert "1 of 2 jobs done, 1 pruned" in done.stderr
    jobs = content(tmp_path / "sweep" / FILE)["jobs"]
    assert [(job["name"], job["end"]) for job in jobs] == [("max_steps-2", "done"), ("max_steps-20000", "pruned")]
    assert [*(tmp_path / "sweep/max_steps-20000" / rundir.CHECKPOINTS).glob("checkpoint-*")]
    assert [row["state"] for row in content(tmp_path / "sweep" / RESULTS)["runs"]] == ["done", "pruned"]
    data = json.loads(ftcli_run("runs", "compare", "sweep", "--json", cwd=tmp_path).stdout)
    assert [row["state"] for row in data["runs"]] == ["done", "pruned"]


def _short_first() -> int:
    """A seed with which the short job is the first, and the long one the second."""
    import tempfile

    from ftcli.config.sweep_axes import Values
    from ftcli.sweeps.optuna_study import Study

    for seed in range(100):
        settings = SweepSettings(trials=2, startup_trials=1, sampler="random", seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            study = Study(Path(folder) / STUDY, settings, [Values("train.max_steps", ("2", "20000"))])
            if [study.ask()[1]["train.max_steps"] for _ in range(2)] == ["2", "20000"]:
                return seed
    raise AssertionError("no such seed")
