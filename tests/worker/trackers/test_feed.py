"""The feed passes on the lines of metrics.jsonl, each number once a step, and no tracker ends the training."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.runs import rundir
from ftcli.settings import trackers
from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.run_spec import RunSpec
from ftcli.settings.tracker_declaration import TrackedRun, Tracker, TrackerSetting
from ftcli.worker.process.progress import Progress
from ftcli.worker.trackers import feed
from ftcli.worker.trackers.feed import Feed, config_of, without_secrets

WAIT_SECONDS = 120.0


class Slate:
    """A tracker that remembers what it is told; it fails, or hangs, where its settings say so."""

    made: ClassVar[list[Slate]] = []
    go_on: ClassVar = threading.Event()

    def __init__(self, run: TrackedRun, settings: Mapping[str, Any]) -> None:
        self.run, self.settings, self.points, self.closed = run, settings, [], False
        self.found = sorted(path.name for path in run.folder.iterdir())
        self.logged = 3 if settings["server"] else -1
        self.made.append(self)
        (run.folder / "slate").write_text("chalk", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        if step == self.settings["hangs_at"]:
            assert self.go_on.wait(WAIT_SECONDS)
        if step == self.settings["fails_at"]:
            raise SystemExit(f"the key s3cret-of-mine is no good at https://x/y?sig=abc\n{'x' * 9000}")
        self.points.append((dict(metrics), step, seconds))

    def close(self) -> None:
        self.closed = True


SLATE = Tracker(
    name="slate",
    summary="A slate.",
    package="",
    writer=f"{__name__}:Slate",
    settings={
        "fails_at": TrackerSetting(type=int, text="The step at which it fails."),
        "hangs_at": TrackerSetting(type=int, text="The step at which it hangs."),
        "server": TrackerSetting(grant=ENDPOINT, text="Where it is sent."),
    },
)


@pytest.fixture
def spec(here: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """The spec of a run in `here`/run, which has a row ledger."""
    monkeypatch.setattr(trackers, "TRACKERS", {"slate": SLATE})
    monkeypatch.setattr(feed, "TRACKERS", {"slate": SLATE})
    Slate.made.clear()
    Slate.go_on.clear()
    (here / "run").mkdir()
    (here / "run" / rundir.LEDGER).write_text("{}", encoding="utf-8")
    words = ("hardware=cpu", "hardware.num_threads=1", "run.dir=run", "run.name=letters")
    made = spec_of(Request(overrides=words))
    return replace(made, run=replace(made.run, trackers="slate"))


def with_settings(spec: RunSpec, **settings: Any) -> RunSpec:
    return replace(spec, run=replace(spec.run, tracking={"slate": settings}))


def lines(*steps: int) -> list[dict[str, Any]]:
    return [{"schema": 1, "step": step, "loss": step / 4, "elapsed_seconds": float(step)} for step in steps]


def test_a_line_is_passed_on_with_its_time_and_each_number_once_a_step(spec: RunSpec, here: Path):
    run = Feed(spec, here / "run")
    run.begin([], 0)
    run.log({"schema": 1, "step": 1, "epoch": 0.5, "loss": 2.0, "grad_norm": None, "elapsed_seconds": 7.0})
    run.log({"schema": 1, "step": 1, "epoch": 0.5, "eval_loss": 3, "elapsed_seconds": 9.0})
    run.log({"schema": 1, "step": 1, "epoch": 0.5, "elapsed_seconds": 9.5})
    run.log({"schema": 1, "step": 2, "epoch": 1.0, "loss": 1.0, "elapsed_seconds": 10.0})
    run.close()
    [slate] = Slate.made
    assert [(metrics, step) for metrics, step, _ in slate.points] == [
        ({"epoch": 0.5, "loss": 2.0, "elapsed_seconds": 7.0}, 1),
        ({"eval_loss": 3}, 1),
        ({"epoch": 1.0, "loss": 1.0, "elapsed_seconds": 10.0}, 2),
    ]
    first, second, third = (seconds for *_, seconds in slate.points)
    assert (second - first, third - second) == pytest.approx((2.0, 1.0))
    assert slate.closed
    assert run.outcome() == {"slate": {"last_step": 2}}
    assert (slate.run.name, slate.run.step, len(slate.run.id)) == ("letters/run", 0, 16)
    assert slate.run.ledger == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of "{}"
    assert slate.run.config["train"]["learning_rate"] == spec.train["learning_rate"]


def test_a_resume_writes_the_folder_anew_from_the_lines_that_the_run_keeps(spec: RunSpec, here: Path):
    began = Feed(spec, here / "run")
    began.begin([], 0)
    for line in lines(1, 2, 3, 4):
        began.log(line)
    began.close()
    resumed = Feed(spec, here / "run")
    resumed.begin(lines(1, 2), 2)
    resumed.log(lines(3)[0])
    resumed.close()
    first, second = Slate.made
    assert [step for _, step, _ in second.points] == [1, 2, 3]
    assert second.found == []
    assert (second.run.id, second.run.step) == (first.run.id, 2)
    assert Path(here / "run" / rundir.TRACKERS / "slate" / "slate").is_file()


def test_a_server_is_sent_only_what_it_does_not_have(spec: RunSpec, here: Path):
    remote = with_settings(spec, server="http://x")
    for kept, step in (([], 0), (lines(1, 2), 2)):
        run = Feed(remote, here / "run")
        run.begin(kept, step)
        for line in lines(*range(step + 1, 6)):
            run.log(line)
        run.close()
        assert [each for _, each, _ in Slate.made[-1].points] == [4, 5]  # it says that it has three
    assert Slate.made[-1].found == ["slate"]  # which may hold what was not sent yet


def test_one_that_fails_is_told_once_without_secrets_and_the_run_goes_on(
    spec: RunSpec, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLATE_API_KEY", "s3cret-of-mine")
    run = Feed(with_settings(spec, fails_at=2), here / "run")
    run.begin([], 0)
    for line in lines(1, 2, 3, 4):
        run.log(line)
    run.close()
    said = capsys.readouterr().err
    assert said.count("note: the tracker slate keeps nothing more: SystemExit: the key *** is no good") == 1
    assert "s3cret" not in said + json.dumps(run.outcome())
    assert "sig=" not in said
    assert len(said) < 600
    told = run.outcome()["slate"]
    assert told["last_step"] == 1
    assert told["failed"].startswith("SystemExit: the key *** is no good at https://x/y")


def test_one_that_hangs_is_left_behind(
    spec: RunSpec, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(feed, "PATIENCE_SECONDS", 0.2)
    run = Feed(with_settings(spec, hangs_at=2), here / "run")
    run.begin([], 0)
    for line in lines(1, 2, 3):
        run.log(line)
    run.close()
    assert "it had not written everything 0.2 seconds after the training" in capsys.readouterr().err
    assert run.outcome()["slate"]["failed"]
    Slate.go_on.set()
    monkeypatch.setattr(feed, "MOST_BEHIND", 2)
    Slate.go_on.clear()
    full = Feed(with_settings(spec, hangs_at=1), here / "run")
    full.begin([], 0)
    for line in lines(*range(1, 9)):
        full.log(line)
    assert full.outcome()["slate"]["failed"] == "it is 2 lines behind"
    Slate.go_on.set()


def test_a_folder_that_cannot_be_written_is_the_tracker_s_failure(spec: RunSpec, here: Path):
    (here / "run" / rundir.TRACKERS).write_text("in the way", encoding="utf-8")
    run = Feed(spec, here / "run")
    run.begin([], 0)
    run.close()
    assert "FileExistsError" in run.outcome()["slate"]["failed"] or "NotADirectory" in run.outcome()["slate"]["failed"]


def test_an_id_that_a_stranger_wrote_is_no_id(spec: RunSpec, here: Path):
    folder = here / "run" / rundir.TRACKERS
    folder.mkdir()
    (folder / "id").write_text("../../../etc", encoding="utf-8")
    run = Feed(spec, here / "run")
    run.begin([], 0)
    run.close()
    assert Slate.made[0].run.id == (folder / "id").read_text(encoding="utf-8").strip() != "../../../etc"


def test_without_trackers_nothing_is_made(spec: RunSpec, here: Path):
    run = Feed(replace(spec, run=replace(spec.run, trackers=None)), here / "run")
    run.begin([], 0)
    run.log(lines(1)[0])
    run.close()
    assert run.outcome() == {}
    assert not (here / "run" / rundir.TRACKERS).exists()


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_feeds_them(first: bool, spec: RunSpec, here: Path):
    run = Feed(spec, here / "run")
    progress = Progress(here / "run", run)
    state: Any = SimpleNamespace(
        is_world_process_zero=first, global_step=0, num_input_tokens_seen=0, epoch=0.0, max_steps=2
    )
    control = SimpleNamespace()
    progress.on_train_begin(None, state, control)
    state.global_step = 1
    progress.on_log(None, state, control, {"loss": 1.5})
    progress.on_train_end(None, state, control)
    assert [step for slate in Slate.made for _, step, _ in slate.points] == ([1] if first else [])


def test_an_address_is_kept_without_its_query_which_may_be_a_permission(spec: RunSpec):
    signed = replace(spec, data=replace(spec.data, path=["https://x/rows.jsonl?sig=abc", "s3://b/k?v=1"]))
    assert config_of(signed)["data"]["path"] == ["https://x/rows.jsonl", "s3://b/k"]


def test_short_values_and_other_variables_are_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", "on")
    monkeypatch.setenv("SOME_PATH", "/a/longer/one")
    assert without_secrets("on\n  /a/longer/one\n") == "on /a/longer/one"
    assert "\x1b" not in without_secrets("\x1b[31m")
