"""Every moment belongs to the innermost part at work, whatever ends it."""

from __future__ import annotations

import threading

import pytest

from ftcli.runs.profiles.time_parts import EVALUATE, FORWARD, GENERATION, IMPORT, OTHER, SAVE, TRAINING, WAIT
from ftcli.worker.training.profiling import recorder as module
from ftcli.worker.training.profiling.hooks import PhaseParts
from ftcli.worker.training.profiling.recorder import Recorder


class Clock:
    """A clock that passes only by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    return Recorder(imported=7.0, clock=clock)


def seconds(recorder: Recorder) -> dict[str, float]:
    """Of each part."""
    return {name: each.seconds for name, each in recorder.parts().items()}


def test_a_part_within_another_takes_its_time_from_it(recorder: Recorder, clock: Clock) -> None:
    clock.now += 1
    with recorder.part(TRAINING):
        clock.now += 2
        with recorder.part(FORWARD):
            clock.now += 4
            with recorder.part(WAIT):
                clock.now += 8
        clock.now += 16
    clock.now += 32
    # 1 + 32 outside, 2 + 16 in training, and the import before the clock began
    assert seconds(recorder) == {IMPORT: 7, FORWARD: 4, WAIT: 8, TRAINING: 18, OTHER: 33}
    spans = [(each.part, each.start, each.end) for each in recorder.spans]
    assert spans == [(IMPORT, 0, 7), (WAIT, 14, 22), (FORWARD, 10, 22), (TRAINING, 8, 38)]


def test_an_evaluation_is_one_part_with_all_that_is_in_it(recorder: Recorder, clock: Clock) -> None:
    with recorder.part(EVALUATE), recorder.part(FORWARD):
        clock.now += 3
        with recorder.part(GENERATION):
            clock.now += 5
    with recorder.part(SAVE):
        clock.now += 1
    assert seconds(recorder) == {IMPORT: 7, EVALUATE: 8, SAVE: 1, OTHER: 0}
    assert recorder.parts()[EVALUATE].times == 1
    assert [each.part for each in recorder.spans] == [IMPORT, EVALUATE, SAVE]


def test_an_error_ends_what_is_at_work_and_nothing_else(recorder: Recorder, clock: Clock) -> None:
    def fails() -> None:
        recorder.begin(FORWARD)  # as a hook that nothing ends any more
        clock.now += 2
        raise ValueError("left")

    with recorder.part(TRAINING):
        with pytest.raises(ValueError, match="left"):
            recorder.timed(GENERATION, fails)()
        assert recorder.now == TRAINING
        clock.now += 1
    assert seconds(recorder) == {IMPORT: 7, FORWARD: 2, GENERATION: 0, TRAINING: 1, OTHER: 0}


def test_phases_are_parts_by_their_kind_and_others_belong_to_what_is_around_them(
    recorder: Recorder, clock: Clock
) -> None:
    phases = PhaseParts(recorder)
    phases.begins("training")
    phases.begins("evaluating at step 5")
    clock.now += 1
    phases.ends("evaluating at step 5", 1.0)
    phases.begins("preparing to train")
    recorder.begin(FORWARD)
    phases.ends("training", 1.0)  # before the end of what is in it, as after an error
    assert recorder.depth == 1
    assert seconds(recorder)[TRAINING] == 1
    phases.ends("preparing to train", 1.0)
    assert recorder.depth == 1


def test_another_thread_takes_no_time_of_this_one(recorder: Recorder, clock: Clock) -> None:
    def saves() -> None:
        with recorder.part(SAVE):
            clock.now += 5

    with recorder.part(TRAINING):
        thread = threading.Thread(target=saves)
        thread.start()
        thread.join()
    assert seconds(recorder) == {IMPORT: 7, TRAINING: 5, OTHER: 0}


def test_the_device_is_waited_for_at_both_ends_of_a_part(clock: Clock) -> None:
    def settles() -> None:
        clock.now += pending.pop() if pending else 0

    pending: list[float] = []
    recorder = Recorder(clock=clock, settle=settles)
    with recorder.part(FORWARD):
        pending.append(4)  # what the device was given, and the call did not wait for
    assert seconds(recorder)[FORWARD] == 4


def test_a_long_run_keeps_so_many_spans_and_says_how_many_more_there_were(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SPANS", 3)
    recorder = Recorder(clock=clock)
    for _ in range(5):
        with recorder.part(FORWARD):
            clock.now += 1
    assert (len(recorder.spans), recorder.left_out) == (3, 3)
    assert seconds(recorder)[FORWARD] == 5
