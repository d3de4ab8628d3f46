"""Trackers: who there is, what of them a file may set, and what is refused before anything is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli.build import gate
from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.config import reach
from ftcli.config.compose import Request
from ftcli.recipes.short_recipe import differing
from ftcli.settings.fields import field_table
from ftcli.settings.ownership import ENDPOINT, PUSH
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting
from ftcli.settings.trackers import TRACKERS

Problems = Callable[..., list[str]]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages of trackers that are taken to be installed."""
    there = {each.package for each in TRACKERS.values()}
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        if name in {each.package for each in TRACKERS.values()}:
            return object() if name in there else None
        return real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return there


def test_the_four_are_there_and_none_is_on_by_default(installed: set[str], problems: Problems):
    assert sorted(TRACKERS) == ["mlflow", "tensorboard", "trackio", "wandb"]
    assert not any(each.sends({}) for each in TRACKERS.values())
    assert problems() == []
    assert problems("run.trackers=[tensorboard,wandb,trackio,mlflow]") == []
    assert problems("run.trackers=tensorboard") == []
    assert problems("run.trackers=[]") == []


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_with_its_extra_before_anything_is_written(
    name: str, installed: set[str], problems: Problems, here: Path
):
    installed.remove(TRACKERS[name].package)
    [found] = problems(f"run.trackers={name}")
    assert f"needs the package {TRACKERS[name].package}, which is not installed" in found
    assert found.endswith(f"fix: pip install 'ftcli[{name}]'")
    assert main(["train", f"run.trackers={name}", "run.dir=r"]) == 2
    assert [*here.iterdir()] == []


REFUSED = {
    "run.trackers=[wandb,tensorbord]": "did you mean run.trackers=tensorboard?",
    "run.trackers=[wandb,wandb]": "names wandb twice",
    "run.trackers=3": "run.trackers is 3",
    "run.trackers=[wandb] train.report_to=[wandb]": "keeps what train.report_to=wandb reports once more",
    "run.trackers=[wandb] train.report_to=all": "keeps what train.report_to=all reports once more",
    "run.tracking.wandb.project=x": "has no effect: run.trackers does not name wandb",
    "run.trackers=mlflow run.tracking.wandb.project=x": "add it: run.trackers=[mlflow, wandb]",
    "run.trackers=wandb run.tracking.wandb=x": "run.tracking.wandb is 'x', and no settings",
    "run.trackers=wandb run.tracking.wandb.project=[a]": "is ['a'], which is not text",
    "run.trackers=wandb run.tracking.wandb.project=''": "is '', which is not text",
    "run.trackers=wandb run.tracking.wandb.mode=on": "is not one of offline, online",
    "run.trackers=wandb run.tracking.wandb.projekt=x": "did you mean run.tracking.wandb.project?",
    "run.trackers=tensorboard run.tracking.tensorboard.x=1": "is no setting of tensorboard",
    "run.trackers=wandb run.tracking.wandb.base_url=http://x": "is read only with run.tracking.wandb.mode=online",
    "run.trackers=trackio run.tracking.trackio.private=true": "is read only with run.tracking.trackio.space_id",
    "run.trackers=trackio run.tracking={trackio:{space_id:a/b,private:3}}": "is 3, which is not true or false",
    "run.trackers=mlflow run.tracking.mlflow.tracking_uri=file:///etc": "an address that begins with http",
    "run.trackers=mlflow run.tracking.mlflow.tracking_uri=http://me:pw@x": "holds a password",
    "run.trackers=wandb run.tracking.wand.mode=online": "wand is no tracker",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_wrong_is_told(words: str, installed: set[str], problems: Problems):
    found = problems(*words.split())
    assert any(REFUSED[words] in each for each in found), found
    assert "pw" not in "".join(found)


SENT = {
    "wandb: {mode: online}": ENDPOINT,
    "mlflow: {tracking_uri: 'http://x'}": ENDPOINT,
    "trackio: {space_id: someone/else}": PUSH,
}


@pytest.mark.parametrize("setting", SENT)
def test_a_file_sends_nothing_without_a_flag_and_what_was_typed_does(
    setting: str, installed: set[str], problems: Problems, here: Path
):
    name = setting.partition(":")[0]
    recipe = f"ftcli: 1\nrun:\n  trackers: [{name}]\n  tracking:\n    {setting}\n"
    (here / "r.yaml").write_text(recipe, encoding="utf-8")
    [found] = problems("recipe=r.yaml")
    assert "r.yaml:5" in found
    assert f"grant it on the command line with {SENT[setting]}" in found
    assert problems("recipe=r.yaml", grants=frozenset({SENT[setting]})) == []
    inner = setting.split("{")[1].rstrip("}").replace(" ", "").replace("'", "").partition(":")
    assert problems(f"run.trackers={name}", f"run.tracking.{name}.{inner[0]}={inner[2]}") == []


def test_what_keeps_everything_in_the_run_needs_no_flag(installed: set[str], problems: Problems, here: Path):
    (here / "r.yaml").write_text(
        "ftcli: 1\nrun:\n  trackers: [wandb, mlflow]\n  tracking:\n    wandb: {mode: offline, project: p}\n", "utf-8"
    )
    assert problems("recipe=r.yaml") == []
    assert reach.flags_of({"run": {"tracking": {"wandb": {"mode": "offline"}}}}) == frozenset()
    assert reach.flags_of({"run": {"tracking": {"wandb": {"mode": "online"}}}}) == {ENDPOINT}


def test_a_run_that_sends_is_resumed_with_its_flag_alone(installed: set[str]):
    words = ("hardware=cpu", "run.trackers=wandb", "run.tracking.wandb.mode=online")
    spec = spec_of(Request(overrides=words))
    assert spec.grants == (ENDPOINT,)
    assert gate.flags_needed(spec) == [ENDPOINT]
    assert gate.flags_needed(spec_of(Request(overrides=words[:2]))) == []


def test_a_recipe_that_is_shared_says_nothing_of_the_trackers_of_who_ran_it(installed: set[str]):
    words = ("hardware=cpu", "run.trackers=wandb", "run.tracking.wandb.project=mine", "run.score_rows=3")
    assert differing(spec_of(Request(overrides=words)))["run"] == {"score_rows": 3}


def test_every_setting_of_a_tracker_is_sorted():
    for name, tracker in TRACKERS.items():
        rows = {entry for entry in field_table.ENTRIES if entry.startswith(f"run.tracking.{name}.")}
        assert rows == {f"run.tracking.{name}.{key}" for key in tracker.settings}


def test_defaults_stand_for_what_is_not_set():
    setting = {
        "size": TrackerSetting(type=int, default=3, text="Its size."),
        "to": TrackerSetting(grant=ENDPOINT, harmless=("here",), default="here", text="Where."),
    }
    tracker = Tracker(name="x", summary="X.", package="", writer="x:X", settings=setting)
    assert tracker.given({"size": None}) == {"size": 3, "to": "here"}
    assert tracker.given({"size": 0}) == {"size": 0, "to": "here"}
    assert not tracker.sends({})
    assert not tracker.sends({"to": "here"})
    assert tracker.sends({"to": "there"})
