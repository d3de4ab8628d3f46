"""Measurements of several processes are summed, whatever each of them measured."""

from __future__ import annotations

import os
from pathlib import Path

from torch import distributed
from torch import multiprocessing as processes

from ftcli.worker.training.measure import summed

COUNTS = ({"exact_match": (3.0, 4)}, {}, {"exact_match": (1.0, 2), "reward": (0.5, 2)})


def take_part(rank: int, meeting: str, out: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=len(COUNTS))
    Path(out, str(rank)).write_text(repr(summed(COUNTS[rank], len(COUNTS))))
    os._exit(0)


def test_a_process_that_measured_nothing_takes_part_and_learns_the_sum(tmp_path):
    context = processes.get_context("fork")
    meeting = str(tmp_path / "meeting")
    ranks = [context.Process(target=take_part, args=(rank, meeting, str(tmp_path))) for rank in range(len(COUNTS))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    expected = repr({"exact_match": (4.0, 6), "reward": (0.5, 2)})
    assert {(tmp_path / str(rank)).read_text() for rank in range(len(COUNTS))} == {expected}


def test_one_process_keeps_what_it_counted():
    assert summed(COUNTS[0], 1) is COUNTS[0]
