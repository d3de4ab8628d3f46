"""How the end of a run is told: by the process that failed first, in its own word where it had one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_NAMES
from ftcli.launch.memory_kills import memory_kills
from ftcli.launch.rank_watch import RankWatch
from ftcli.launch.worker_end import Launch, cause, end_of_output, settled
from ftcli.runs import run_end
from ftcli.runs.beats import Beat, Channel
from ftcli.runs.run_end import RunEnd
from ftcli.settings.run_spec import LaunchPlan

SIGNALLED = "failed (exitcode: -9) local_rank: 1 (pid: 4001) of binary: python\n  exitcode  : -9 (pid: 4001)\n"
FIRST_FAILED = "failed (exitcode: 8) local_rank: 0 (pid: 4000) of binary: python\n"


def watched(folder: Path, processes: int, *beats: Beat, lost: Sequence[int] = ()) -> RankWatch:
    """A watch that has seen these beats."""
    folder.mkdir()
    for beat in beats:
        Channel(folder, beat.rank).write(replace(beat, local=beat.rank))
    watch = RankWatch(folder, LaunchPlan(num_processes=processes), None, lambda: None, lambda _: None)
    with watch.watching():
        pass
    watch.lost = {beat.rank: beat for beat in beats if beat.rank in lost}
    return watch


@pytest.mark.parametrize(
    ("processes", "code", "own", "exit_code", "words"),
    [
        (1, 0, None, 0, ""),
        (1, 2, 2, 2, ""),
        (1, 3, 3, 3, ""),
        (1, 75, 75, 75, ""),
        (2, 1, 75, 75, "--resume"),  # torch's launcher answers 1 for every cause; the rank's own word counts
        (2, 0, 75, 75, "--resume"),  # what it would have started again has left with 0
        (2, 1, 3, 3, ""),
        (2, 1, 1, 1, "To reproduce it: ftcli train --resume"),
        (1, 1, 1, 1, "To reproduce it: ftcli train --resume"),
        (2, 1, 4, 4, "--resume"),
        (2, 1, None, 8, "the launcher ended before a process of the run said why"),
        (1, -9, None, 8, "the worker was killed by SIGKILL"),
        (1, 139, None, 8, "the worker was killed by SIGSEGV"),
        (1, -15, None, 75, "the worker was killed by SIGTERM"),
    ],
)
def test_the_end_of_a_worker_is_told_by_its_own_word(processes, code, own, exit_code, words, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    if own is not None:
        run_end.write(run, RunEnd(code=own, message="its own word", rank=1))
    said: list[str] = []
    launch = Launch(run=run, code=code, num_processes=processes, watch=watched(tmp_path / "beats", processes))
    assert settled(launch, said.append) == exit_code
    assert words in " ".join(said)
    assert bool(said) is bool(words) or exit_code in (4, 6, 8)
    end = run_end.read(run)
    assert end is not None
    assert (end.code, EXIT_NAMES[end.code]) == (exit_code, EXIT_NAMES[exit_code])
    assert (end.message == "its own word") is (own is not None)


TRAINS = {"phase": "training", "step": 7}
SURVIVOR = RunEnd(code=8, message="another process of the run: was lost", rank=0)
BOTH = (Beat(pid=4000, rank=0, code=8, **TRAINS), Beat(pid=4001, rank=1, **TRAINS))


@pytest.mark.parametrize(
    ("own", "lost", "output", "asked", "kills", "code", "words"),
    [
        (SURVIVOR, [1], SIGNALLED, [], 0, 8, "rank 1 was killed by SIGKILL in step 7"),
        (SURVIVOR, [1], SIGNALLED, [], 1, 4, "rank 1 was killed by SIGKILL in step 7: the machine ran out of memory"),
        (SURVIVOR, [1], SIGNALLED, ["SIGTERM"], 0, 75, "rank 1 was killed by SIGKILL in step 7"),
        (SURVIVOR, [1], "", [], 0, 8, "rank 1 died in step 7"),
        (SURVIVOR, [1], FIRST_FAILED, [], 0, 8, "was lost"),  # the launcher ended rank 1 because rank 0 had failed
        (RunEnd(code=4, message="no memory", rank=0), [1], SIGNALLED, [], 0, 4, "no memory"),
        (None, [1], SIGNALLED.replace("-9", "-6") + "'std::bad_alloc'", [], 0, 4, "killed by SIGABRT in step 7: std::"),
        (None, [1], SIGNALLED.replace("-9", "-6"), [], 0, 8, "rank 1 was killed by SIGABRT in step 7"),
        (None, [1], SIGNALLED.replace("-9", "-15"), [], 0, 75, "rank 1 was killed by SIGTERM in step 7"),
    ],
)  # fmt: skip
def test_a_process_that_died_without_a_word_is_named(own, lost, output, asked, kills, code, words, tmp_path):
    if own is not None:
        run_end.write(tmp_path, own)
    launch = Launch(
        run=tmp_path, code=1, num_processes=2, watch=watched(tmp_path / "beats", 2, *BOTH, lost=lost),
        asked=asked, memory_kills=kills, output=output,
    )  # fmt: skip
    assert settled(launch, lambda _: None) == code
    end = run_end.read(tmp_path)
    assert end is not None
    assert end.code == code
    assert words in end.message


def test_where_no_file_can_be_written_the_word_comes_over_the_channel(tmp_path):
    full = Beat(pid=4000, rank=2, code=6, message="the disk: is full", phase="saving a checkpoint", step=4, at=7.0)
    beats = (Beat(pid=4001), Beat(pid=4002, rank=1, code=8, at=6.0), full, Beat(pid=4003, rank=3, code=1, at=9.0))
    launch = Launch(run=tmp_path / "gone", code=1, num_processes=4, watch=watched(tmp_path / "beats", 4, *beats))
    assert settled(launch, lambda _: None) == 6
    assert cause(launch)[0] == RunEnd(
        code=6, message="the disk: is full", rank=2, host=run_end.this_host(), step=4, phase="saving a checkpoint"
    )


def test_a_process_that_was_started_again_under_another_rank_leaves_no_word_of_before(tmp_path):
    """As of two machines: torch's launcher deals the ranks anew whenever it starts all processes again."""
    watch = watched(tmp_path / "beats", 1, Beat(pid=4000, rank=0, code=8, message="another process was lost"))
    assert [beat.code for beat in watch.left()] == [8]
    Channel(tmp_path / "beats", 0).write(Beat(pid=4100, rank=1, phase="training", step=9))
    watch.look(1.0)
    assert [(beat.rank, beat.pid) for beat in watch.beats()] == [(1, 4100)]
    Channel(tmp_path / "beats", 0).write(Beat(pid=4100, rank=1, code=0))
    watch.look(2.0)
    (tmp_path / "run").mkdir()
    launch = Launch(run=tmp_path / "run", code=0, num_processes=1, watch=watch)
    assert settled(launch, lambda _: None) == 0


def test_a_message_of_any_length_and_script_fits_the_channel(tmp_path):
    Channel(tmp_path, 0).write(Beat(pid=1, message='"🙂' * 5000))
    watch = RankWatch(tmp_path, LaunchPlan(), None, lambda: None, lambda _: None)
    watch.look(0.0)
    assert watch.beats()[0].message.startswith('"🙂"🙂')


def test_the_kernel_s_counts_of_kills_are_added_up(tmp_path):
    groups, own, machine = tmp_path / "cgroup", tmp_path / "own", tmp_path / "vmstat"
    (groups / "memory" / "job").mkdir(parents=True)
    (groups / "job").mkdir()
    own.write_text("4:memory:/job\n3:cpu:/\n0::/job\n")
    assert memory_kills(machine, groups, own) == 0
    machine.write_text("nr_free_pages 17\noom_kill 3\n")
    (groups / "job" / "memory.events").write_text("oom 9\noom_kill 2\noom_group_kill 0\n")
    (groups / "memory" / "job" / "memory.oom_control").write_text("under_oom 0\noom_kill 1\n")
    assert memory_kills(machine, groups, own) == 6
    assert memory_kills() >= 0


def test_only_what_this_start_printed_is_read(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("of before\n")
    begin = log.stat().st_size
    with open(log, "a") as file:
        file.write("of now\n")
    assert end_of_output(log, begin) == "of now\n"
    assert end_of_output(tmp_path / "none", 0) == ""
