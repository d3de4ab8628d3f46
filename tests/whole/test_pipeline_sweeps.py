"""A pipeline as the job of a sweep: its last stage is what the table shows and what a search looks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.runs import rundir
from ftcli.sweeps.sweep_folder import FILE, RESULTS, STUDY, read_sweep
from tests.whole.conftest import Train

RECIPE = """ftcli: 1
defaults:
  - method: rlaif
  - hardware: cpu
  - judge: rules
method:
  measure: false
hardware:
  num_threads: 1
train:
  max_steps: 1
  save_strategy: "no"
run:
  score_rows: 0
judge:
  patterns: [a]
stages:
  assistant:
    model: ./model
  sft:
    model: ./model
  sample:
    data:
      path: prompts.jsonl
    make:
      max_new_tokens: 4
      n: 4
  dpo:
    data:
      eval_path: pairs.jsonl
sweep:
  trials: 2
  startup_trials: 1
  space:
    stages.dpo.method.beta: {low: 0.01, high: 1.0, log: true}
"""


def content(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_search_over_a_pipeline_looks_for_what_its_last_stage_measures(tmp_path: Path, ftcli_run: Train) -> None:
    pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
    shutil.copytree(tiny.MODEL_DIR, tmp_path / "model")
    (tmp_path / "search.yaml").write_text(RECIPE, encoding="utf-8")
    prompts = [{"prompt": f"Say {n}."} for n in range(24)]
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": "no"} for n in range(4)]
    for name, every in (("prompts", prompts), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every), encoding="utf-8")
    done = ftcli_run("sweep", "recipe=search.yaml", "run.dir=sweep", cwd=tmp_path)
    assert "2 of 2 jobs done" in done.stderr
    table = content(tmp_path / "sweep" / RESULTS)
    assert table["differs"] == ["stages.dpo.method.beta"]
    assert [row["state"] for row in table["runs"]] == ["done", "done"]
    for row in table["runs"]:
        result = content(Path(tmp_path, row["run"]) / rundir.RESULT)
        assert row["held_out_loss"] == result["stages"]["dpo"]["eval_loss"]["after"]
    best = [row["held_out_loss"] for row in table["runs"]]
    assert best == sorted(best)

    # As a kill leaves it, in the last stage of the second job.
    sweep = read_sweep(tmp_path / "sweep")
    job = sweep.jobs[1]
    raw = content(tmp_path / "sweep" / FILE)
    raw["jobs"][1] |= {"end": None, "code": None}
    rundir.write_json(tmp_path / "sweep" / FILE, raw)
    journal = tmp_path / "sweep" / STUDY
    journal.write_text("".join(journal.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    folder = tmp_path / "sweep" / job.name
    (folder / rundir.RESULT).unlink()
    shutil.rmtree(folder / "dpo")
    made = (folder / "sample/data.jsonl").stat().st_mtime_ns
    again = ftcli_run("sweep", "--resume", "sweep", cwd=tmp_path)
    assert "2 of 2 jobs done" in again.stderr
    assert (folder / "sample/data.jsonl").stat().st_mtime_ns == made
    now = content(tmp_path / "sweep" / RESULTS)["runs"]
    assert [row["held_out_loss"] for row in now] == best
