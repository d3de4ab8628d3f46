"""profile.json: what is written is read and shown; what is damaged is as none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_INTERRUPTED
from ftcli.runs import run_end, rundir
from ftcli.runs.profiles import profile_file
from ftcli.runs.profiles.profile_file import PROFILE, PartTime, ProcessProfile, forget, read_profiles, write_profile
from ftcli.runs.run_end import RunEnd
from tests.reports.folders import result, run_folder

FIRST = ProcessProfile(
    rank=0,
    processes=1,
    from_step=0,
    steps=4,
    seconds=20.0,
    parts={
        "import": PartTime(seconds=7.0, times=1),
        "forward": PartTime(seconds=4.0, times=8),
        "backward": PartTime(seconds=6.0, times=8),
        "wait": PartTime(seconds=0.5, times=9),
        "other": PartTime(seconds=2.5, times=1),
    },
)
OF_TWO = replace(FIRST, processes=2)
SECOND = replace(OF_TWO, rank=1, parts={**FIRST.parts, "wait": PartTime(seconds=3.25, times=9)})


def test_each_process_has_a_file_and_what_is_written_is_read(tmp_path: Path) -> None:
    for each in (SECOND, OF_TWO):
        write_profile(tmp_path, each)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["profile-1.json", "profile.json"]
    assert read_profiles(tmp_path) == (OF_TWO, SECOND)
    assert OF_TWO.step_seconds() == pytest.approx((4 + 6 + 0.5) / 4)
    (tmp_path / "profile.md").touch()
    forget(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["profile.md"]
    assert read_profiles(tmp_path) == read_profiles(tmp_path / "gone") == ()


def changed(**values: object) -> str:
    """A whole file but for these values."""
    parts = {name: vars(each) for name, each in FIRST.parts.items()}
    return json.dumps({"schema": 1, **vars(FIRST), "parts": parts, **values})


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"schema": 1}', changed(schema=2), changed(steps=-1), changed(steps=True), changed(rank=1),
        changed(seconds="1"), changed(parts=[]), changed(parts={"forward": {"seconds": 1}}), changed(more=1),
        changed(parts={"forward": {"seconds": -1, "times": 1}}), changed(seconds=float("nan")),
    ],
)  # fmt: skip
def test_a_damaged_file_is_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(content, encoding="utf-8")
    assert read_profiles(tmp_path) == ()


def test_parts_of_another_version_are_left_out(tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(changed(parts={"nap": {"seconds": 1, "times": 1}}), encoding="utf-8")
    assert [each.parts for each in read_profiles(tmp_path)] == [{}]


def test_a_report_shows_where_the_seconds_went(typed, here: Path) -> None:
    run = run_folder(here / "run")
    write_profile(run, FIRST)
    rundir.write_json(run / rundir.RESULT, {**result(40), **profile_file.as_data([FIRST])})
    code, out, _ = typed("report", "run")
    assert code == 0
    assert re.search(
        r"^  profile +20\.0 s: importing libraries 35%, backward passes 30%, forward passes 20%, rest", out, re.M
    )
    assert "where the seconds went: 4 steps\n" in out
    assert re.search(r"^  backward passes +6\.00 +30\.0% +8 +1500\.0 ms$", out, re.MULTILINE)
    assert re.search(r"^  importing libraries +7\.00 +35\.0% +1$", out, re.MULTILINE)
    assert re.search(r"^  all +20\.00 +100\.0% +2625\.0 ms$", out, re.MULTILINE)
    page = (run / rundir.REPORT).read_text(encoding="utf-8")
    assert "Where the seconds went" in page
    assert "1500.0 ms" in page
    _, out, _ = typed("report", "run", "--json")
    assert json.loads(out)["profile"]["parts"]["backward"] == {"seconds": 6.0, "times": 8}


def test_a_stopped_run_of_two_processes_tells_how_long_they_wait(typed, here: Path) -> None:
    run = run_folder(here / "run", done=False)
    for each in (OF_TWO, SECOND):
        write_profile(run, replace(each, from_step=36))
    run_end.write(run, RunEnd(code=EXIT_INTERRUPTED, message="stopped", rank=0, host="here", step=40, phase="training"))
    _, out, _ = typed("report", "run")
    assert "where the seconds went: 4 steps after step 36 of the first process; the processes wait" in out
    assert "wait 0.50 (rank 0) to 3.25 s (rank 1) for each other" in out
    _, out, _ = typed("report", "run", "--json")
    told = json.loads(out)["profile"]
    assert (told["from_step"], [each["wait"] for each in told["processes"]]) == (36, [0.5, 3.25])


def test_a_result_that_somebody_edited_is_an_error_and_no_traceback(typed, here: Path) -> None:
    run = run_folder(here / "run")
    rundir.write_json(run / rundir.RESULT, {**result(40), "profile": {"seconds": 1, "parts": {"nap": {"seconds": 1}}}})
    code, _, err = typed("report", "run")
    assert code == 2
    assert "is damaged" in err
