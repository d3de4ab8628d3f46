"""How a worker stops: at once, by whatever signal, after what has to be finished, and in the end in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ftcli.core.errors import InterruptedRun
from ftcli.runs.stop_signals import MEANINGS, STOPS, Stopped
from ftcli.worker.process import activity, interruption
from ftcli.worker.process.activity import phase

WAIT_SECONDS = 120


@contextmanager
def stopping(match: str = "stopped by", **how: Any) -> Iterator[None]:
    """A block that a signal ends, as in a worker."""
    with pytest.raises(Stopped, match=match), interruption.taken(**how):
        yield


def arrive(name: str = "SIGTERM") -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", MEANINGS)
def test_each_signal_stops_at_once_under_its_own_name_and_handlers_are_given_back(name: str) -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with stopping(f"stopped by {name} while counting: 3 of 8 things"), phase("counting"):
        interruption.reached(3, 8, "things")
        arrive(name)
        raise AssertionError("went on")
    assert [signal.getsignal(number) for number in STOPS] == before


def test_what_handles_errors_lets_a_stop_pass() -> None:
    with stopping():
        try:
            arrive()
        except Exception:
            raise AssertionError("took it for an error") from None


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.taken():
            arrive("SIGHUP")
            assert interruption.name() == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_has_to_be_finished_is_finished_and_the_first_signal_is_the_one_that_is_named() -> None:
    done = []
    with stopping("SIGUSR1"), interruption.finishing():
        arrive("SIGUSR1")
        arrive("SIGINT")
        done.append("saved")
    assert done == ["saved"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_part_of_a_step_is_left_at_once_by_one_process_and_finished_by_several(alone: bool) -> None:
    done = []
    with stopping(), interruption.finishing():
        with interruption.leavable(alone):
            arrive()
            done.append("answered")
        done.append("learned")
    assert done == ([] if alone else ["answered", "learned"])


def test_a_swallowed_stop_is_raised_again_by_the_next_loop() -> None:
    with stopping():
        with contextlib.suppress(KeyboardInterrupt):  # as a library might
            arrive()
        interruption.reached(1, 2, "rows")
        raise AssertionError("went on")


def test_what_never_returns_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "LEAVES_WITHIN", 0.1)
    monkeypatch.setattr(interruption, "let_in", lambda: None)
    messages: list[str] = []
    ended = threading.Event()

    def give_up(message: str) -> None:
        messages.append(message)
        ended.set()

    with stopping(give_up=give_up), phase("waiting for the others"):
        try:
            arrive("SIGQUIT")
        finally:
            assert ended.wait(WAIT_SECONDS)
    assert messages == ["stopped by SIGQUIT while waiting for the others"]


def test_a_run_names_the_command_that_resumes_it(tmp_path) -> None:
    with pytest.raises(InterruptedRun, match="ftcli train --resume") as caught, interruption.resumable(tmp_path):
        arrive()
    assert caught.value.exit_code == 75


def test_a_lost_neighbour_is_a_stop_where_this_process_was_asked_to_stop_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    def step(*, asked_to_stop: bool) -> None:
        with interruption.resumable(tmp_path):
            interruption.finish_first(True)
            if asked_to_stop:
                arrive()
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")

    with pytest.raises(InterruptedRun, match="stopped by SIGTERM"):
        step(asked_to_stop=True)
    with pytest.raises(RuntimeError):
        step(asked_to_stop=False)


def test_lines_of_progress_are_rare_and_name_the_outermost_phase(monkeypatch, capsys) -> None:
    now = [100.0]
    monkeypatch.setattr(activity.time, "monotonic", lambda: now[0])
    line = activity.Line()
    with phase("measuring before training"), phase("evaluating at step 0"):
        for done in range(241):
            interruption.reached(done, 240, "answers")
            interruption.reached(1, 2, "verdicts")  # of one of them
            now[0] += 0.125
            line.write()
    said = capsys.readouterr().err.splitlines()
    # 241 eighths of a second: a line every ten seconds, that is every 80.
    assert said == [f"measuring before training: {done} of 240 answers" for done in (79, 159, 239)]


def test_a_phase_without_a_count_says_how_long_it_has_taken_and_a_silent_one_nothing(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(activity.time, "monotonic", lambda: now[0])
    line = activity.Line()
    with phase("training", shown=False):
        now[0] += 30
        line.write()
        with phase("loading the model"):
            now[0] += 12
            line.write()
    assert capsys.readouterr().err == "loading the model (12 s)\n"
