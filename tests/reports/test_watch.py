"""Runs at a glance: from their files alone, wherever they stand, and for a browser of this machine alone."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli.build import gate
from ftcli.core.exit_codes import EXIT_INTERRUPTED
from ftcli.reports.local_pages import server_at
from ftcli.reports.overview import glances
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from ftcli.runs.worker_records import PhaseFile
from ftcli.settings.run_spec import RunSpec
from tests.reports.folders import HOSTILE, run_folder


@pytest.fixture
def runs(here: Path) -> Path:
    """Four runs: one done, one stopped, one damaged, one killed without a word."""
    run_folder(here / "runs" / "a" / "1")
    stopped = run_folder(here / "runs" / "a" / "2", "train.max_steps=80", done=False)
    run_end.write(stopped, RunEnd(code=EXIT_INTERRUPTED, message="stopped by SIGTERM"))
    run_folder(here / "runs" / "b" / "1", done=False)
    (run_folder(here / "runs" / "c" / "1") / rundir.SPEC).write_text("{")
    return here / "runs"


def test_every_run_below_a_folder_is_told_where_it_stands(runs: Path):
    found = {each.name: each for each in glances(runs)}
    assert {name: each.state for name, each in found.items()} == {
        "a/1": "done", "a/2": "stopped", "b/1": "lost", "c/1": "damaged",
    }  # fmt: skip
    assert (found["a/1"].share, found["a/2"].share) == (1.0, 0.5)
    assert found["a/2"].doing == "stopped by SIGTERM"
    assert found["a/1"].loss == pytest.approx(2.018, abs=1e-3)
    assert found["a/1"].held_out == pytest.approx(2.218, abs=1e-3)


def test_a_spec_is_checked_once_for_each_change_of_it(runs: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def opened(run: Path) -> RunSpec:
        asked.append("/".join(run.parts[-2:]))
        return gate_opened(run)

    gate_opened = gate.opened
    monkeypatch.setattr(gate, "opened", opened)
    first = glances(runs)
    assert sorted(asked) == ["a/1", "a/2", "b/1", "c/1"]
    asked.clear()
    again = glances(runs)
    assert asked == []
    assert [(each.name, each.state, each.doing) for each in again] == [(x.name, x.state, x.doing) for x in first]
    spec = runs / "a" / "1" / rundir.SPEC
    spec.write_text(spec.read_text(encoding="utf-8").replace('"max_steps"', '"max_stepz"'), encoding="utf-8")
    other = runs / "a" / "2" / rundir.SPEC
    rundir.write_atomically(other, other.read_text(encoding="utf-8"))
    assert {each.name: each.state for each in glances(runs)}["a/2"] == "stopped"
    assert sorted(asked) == ["a/1", "a/2"]
    (runs / "b" / "1" / "x").symlink_to("/etc/passwd")
    [linked] = [each for each in glances(runs) if each.name == "b/1"]
    assert (linked.state, len(asked)) == ("damaged", 2)


def test_of_a_run_at_work_the_time_left_and_its_last_words_are_told(runs: Path):
    run = runs / "a" / "2"
    (run / rundir.LOG).write_text("measuring: 1 of 4\rmeasuring: 2 of 4\n\n")
    with rundir.at_work(run):
        [each] = [each for each in glances(runs) if each.name == "a/2"]
    assert (each.state, each.doing) == ("running", "measuring: 2 of 4")
    assert each.seconds_left == pytest.approx(40.0)


def test_of_a_run_at_work_its_phase_is_told_and_a_report_has_those_that_are_over(runs: Path, monkeypatch, typed):
    run = runs / "a" / "2"
    (run / rundir.LOG).write_text("a library's warning\n")
    monkeypatch.setattr("time.time", lambda: 5000.0)
    file = PhaseFile(run)
    file.begins("training")
    file.ends("training", 61.0)
    file.begins(f"evaluating at step 5{HOSTILE}")
    file.counts(3, 8, "rows")
    monkeypatch.setattr("time.time", lambda: 5004.0)
    with rundir.at_work(run):
        [each] = [each for each in glances(runs) if each.name == "a/2"]
        assert each.doing == f"evaluating at step 5{HOSTILE} (4.0 s)"
        _, out, _ = typed("report", str(run))
    assert "phases" in out
    assert "training 1 min 01 s" in out
    assert "a library's warning" not in out


def test_the_table_is_printed_once_where_there_is_no_terminal(typed, runs: Path):
    code, out, _ = typed("watch")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["run", "a/1", "a/2", "b/1", "c/1"]
    code, out, _ = typed("watch", "runs/a/1", "--json")
    assert [each["state"] for each in json.loads(out)] == ["done"]
    assert typed("watch", "nothing")[0] == 2
    assert typed("watch", str(runs), "--serve", "99999999")[0] == 2


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    server = server_at(runs, 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def got(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_browser_of_this_machine_sees_the_table_and_each_report(address: str):
    code, page = got(f"{address}/")
    assert code == 200
    assert 'href="/a/1"' in page
    assert "stopped by SIGTERM" in page
    code, page = got(f"{address}/a/1")
    assert (code, page.count("<svg xmlns")) == (200, 4)
    for title in ("Plan and reality", "What the model sees", "Answers before and after", "What differs"):
        assert f"<summary>{title}" in page
    assert "is not a run spec" in got(f"{address}/c/1")[1]


def test_nobody_else_and_nothing_else_is_answered(address: str, runs: Path):
    assert got(f"{address}/", Host="evil.example")[0] == 403
    assert got(f"{address}/", Host="localhost:1")[0] == 200
    for path in ("../../etc/passwd", "a/1/spec.json", "a/../../x", "%2e%2e/x", "a%2f1%2fspec.json"):
        assert got(f"{address}/{path}")[0] == 404


def test_names_of_strangers_stay_text(runs: Path, address: str):
    run_folder(runs / "d" / HOSTILE.replace("/", "_"))
    _, page = got(f"{address}/")
    assert "<img" not in page
    assert "\u202e" not in page
