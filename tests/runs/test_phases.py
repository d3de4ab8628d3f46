"""phases.json: what the last worker of a run has done, and does."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcli.runs import rundir, worker_records
from ftcli.runs.worker_records import PhaseFile, Phases, PhaseTime, read_phases
from ftcli.worker.process.activity import Line, kept_in, note, phase


def test_phases_are_kept_by_kind_with_those_within_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_records.time, "time", lambda: 1000.0)
    file = PhaseFile(tmp_path)
    file.begins("loading the model")
    found = read_phases(tmp_path)
    assert found == Phases(over=(PhaseTime(name="loading the model"),), now="loading the model", since=1000.0)
    file.ends("loading the model", 2.5)
    file.begins("training")
    for step in (5, 10):
        file.begins(f"evaluating at step {step}")
        file.ends(f"evaluating at step {step}", 0.25)
    file.ends("training", 40.0)
    assert read_phases(tmp_path) == Phases(
        over=(
            PhaseTime(name="loading the model", times=1, seconds=2.5),
            PhaseTime(name="training", times=1, seconds=40.0),
            PhaseTime(name="evaluating", within=True, times=2, seconds=0.5),
        )
    )
    assert [each.name for each in tmp_path.iterdir()] == [rundir.PHASES]


def test_a_worker_keeps_its_phases_and_how_far_it_is(tmp_path: Path) -> None:
    with kept_in(tmp_path), phase("measuring before training"):
        note(3, 8, "rows")
        PhaseFile._SECONDS, before = 0.0, PhaseFile._SECONDS
        try:
            Line().write()
        finally:
            PhaseFile._SECONDS = before
        found = read_phases(tmp_path)
        assert found is not None
        assert (found.now, found.done, found.total, found.unit) == ("measuring before training", 3, 8, "rows")
    found = read_phases(tmp_path)
    assert found is not None
    assert (found.now, [each.times for each in found.over]) == ("", [1])
    with phase("elsewhere"):
        assert read_phases(tmp_path) == found


def test_an_end_whose_beginning_was_never_noted_changes_nothing(tmp_path: Path) -> None:
    PhaseFile(tmp_path).ends("training", 1.0)
    assert read_phases(tmp_path) is None


def test_a_folder_that_is_gone_or_takes_no_file_stops_nothing(tmp_path: Path) -> None:
    file = PhaseFile(tmp_path / "gone")
    file.begins("training")
    file.ends("training", 1.0)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "{", '{"schema": 1}', '{"schema": 1, "over": [{"name": 3}]}', '{"schema": 1, "over": 4}',
        '{"schema": 1, "over": [], "now": "x", "since": "y"}', '{"schema": 1, "over": [], "done": "many"}',
        '{"schema": 1, "over": [{"name": "a", "seconds": NaN}]}', '{"schema": 1, "over": [], "other": 1}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / rundir.PHASES).write_text(content, encoding="utf-8")
    assert read_phases(tmp_path) is None
