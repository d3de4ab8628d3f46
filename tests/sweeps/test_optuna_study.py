"""The search on Optuna, without training: what it draws, when it prunes, and what a journal of a stranger's does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")

from ftcli.config.sweep_axes import Range, Values
from ftcli.core.errors import ConfigError
from ftcli.sweeps.optuna_study import Study
from ftcli.sweeps.sweep_settings import SweepSettings

AXES = [
    Range("train.learning_rate", 1e-5, 1e-3, log=True),
    Range("peft.r", 4, 16, step=4),
    Values("peft", ("lora", "dora")),
]
SETTINGS = SweepSettings(startup_trials=2)


def drawn(study: Study, number: int) -> list[dict[str, str]]:
    """That many jobs, of which a higher rate is worse."""
    found = []
    for _ in range(number):
        trial, values = study.ask()
        study.tell(trial, float(values["train.learning_rate"]))
        found.append(values)
    return found


def test_a_search_that_is_resumed_draws_what_it_would_have_drawn(tmp_path: Path):
    whole = drawn(Study(tmp_path / "a", SETTINGS, AXES), 6)
    cut = Study(tmp_path / "b", SETTINGS, AXES)
    begun = drawn(cut, 3)
    _, interrupted = cut.ask()
    with open(tmp_path / "b", "a", encoding="utf-8") as journal:
        journal.write('{"op_code": 6, "wor')  # what a kill leaves
    resumed = Study(tmp_path / "b", SETTINGS, AXES)
    assert resumed.count() == 4
    rest = drawn(resumed, 3)
    assert rest[0] == interrupted
    assert [*begun, *rest] == whole
    assert {values["peft.r"] for values in whole} <= {"4", "8", "12", "16"}
    assert all(1e-5 <= float(values["train.learning_rate"]) <= 1e-3 for values in whole)


def test_a_job_is_judged_at_every_step_however_many_came_between_two_looks(tmp_path: Path):
    study = Study(tmp_path / "a", SweepSettings(startup_trials=1), AXES)
    short, _ = study.ask()
    assert not study.is_hopeless(short, {2: 1.0})
    study.tell(short, 1.0)
    long, _ = study.ask()
    assert study.is_hopeless(long, {6: 0.1, 4: 0.2, 2: 8.0})  # by step 2 alone, the last at which the short one was


def test_a_job_that_ended_before_anyone_looked_at_it_is_compared_with_too(tmp_path: Path):
    study = Study(tmp_path / "a", SweepSettings(startup_trials=1), AXES)
    short, _ = study.ask()
    study.tell(short, 1.0, losses={2: 1.0})
    long, _ = study.ask()
    assert study.is_hopeless(long, {2: 8.0})


def test_the_median_prunes_what_is_worse_than_half_of_the_others(tmp_path: Path):
    study = Study(tmp_path / "a", SweepSettings(startup_trials=2), AXES)
    for loss in (1.0, 2.0):
        trial, _ = study.ask()
        assert not study.is_hopeless(trial, {5: loss})
        study.tell(trial, loss)
    # The median of 1 and 2 is 1.5.
    better, _ = study.ask()
    assert not study.is_hopeless(better, {5: 1.4})
    worse, _ = study.ask()
    assert study.is_hopeless(worse, {5: 1.6})
    study.tell(worse, None, pruned=True)
    broken, _ = study.ask()
    assert study.is_hopeless(broken, {5: float("nan")})
    study.tell(broken, float("nan"))


def test_a_failed_job_teaches_nothing_and_counts(tmp_path: Path):
    study = Study(tmp_path / "a", SETTINGS, AXES)
    trial, _ = study.ask()
    study.tell(trial, None)
    assert study.count() == 1
    assert not Study(tmp_path / "a", SETTINGS, AXES).has_begun()


@pytest.mark.parametrize("content", ["not a journal\n", '{"op_code": 0}\n', "[]\n" * 2, '{"op_code": 99}\n'])
def test_a_file_that_is_no_journal_is_told(content, tmp_path: Path):
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the journal of this search"):
        Study(tmp_path / "a", SETTINGS, AXES)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot be read"):
        Study(tmp_path / "a", SETTINGS, AXES)
