"""Where a run stands, told from its files and locks alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED, EXIT_MEMORY
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.runs.run_state import run_state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with the metrics of three steps, the last cut while it was written."""
    lines = [json.dumps({"schema": 1, "step": step, "loss": 1.0 / step, "elapsed_seconds": step}) for step in (1, 2)]
    (tmp_path / rundir.SPEC).write_text("{}")
    (tmp_path / rundir.METRICS).write_text("\n".join([*lines, '{"schema": 1, "st']))
    return tmp_path


def test_a_run_whose_lock_is_held_is_at_work_and_looking_changes_nothing(run: Path):
    with rundir.at_work(run):
        before = {path: path.stat() for path in run.iterdir()}
        state = run_state(run)
        assert {path: path.stat() for path in run.iterdir()} == before
    assert (state.name, state.step, state.text()) == ("running", 2, "at work, at step 2")
    assert run_state(run).name == "lost"


def test_who_looks_keeps_nobody_from_beginning(run: Path):
    for _ in range(20):
        run_state(run)
        with rundir.exclusive(run):
            assert run_state(run).name == "running"


def test_a_run_of_a_folder_that_cannot_be_written_is_looked_at_alike(run: Path):
    with rundir.exclusive(run):
        pass
    run.chmod(0o555)
    try:
        assert run_state(run).name == "lost"
    finally:
        run.chmod(0o755)


@pytest.mark.parametrize(("code", "name"), [(EXIT_INTERRUPTED, "stopped"), (EXIT_MEMORY, "failed")])
def test_how_it_ended_is_told(run: Path, code: int, name: str):
    run_end.write(run, RunEnd(code=code, message="so it went", rank=1, step=2))
    state = run_state(run)
    assert state.name == name
    assert state.text().startswith(f"{name} at step 2: exit code {code}")
    assert "so it went" in state.text()


def test_a_result_is_the_end_of_a_run_unless_a_later_command_failed(run: Path):
    rundir.write_json(run / rundir.RESULT, {"schema": 1, "steps": 2})
    assert run_state(run).name == "done"
    with rundir.exclusive(run):  # by a command that goes on with it
        assert run_state(run).name == "running"
        run_end.write(run, RunEnd(code=EXIT_DONE))
        assert run_state(run).name == "done"
    run_end.write(run, RunEnd(code=EXIT_MEMORY, message="as it was extended"))
    assert run_state(run).name == "failed"


def test_what_never_began(tmp_path: Path):
    (tmp_path / rundir.SPEC).write_text("{}")
    state = run_state(tmp_path)
    assert (state.name, state.step, state.text()) == ("prepared", 0, "not begun")


@pytest.mark.parametrize("lines", ["[1]\n", '{"step": "x"}\n', '"text"\n', '{"step": true}\n', "\0", '{"loss": 1}'])
def test_metrics_that_a_stranger_wrote_count_for_nothing(run: Path, lines: str):
    (run / rundir.METRICS).write_text(lines)
    assert run_state(run).step == 0
