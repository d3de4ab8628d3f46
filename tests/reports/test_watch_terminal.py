"""`ftcli watch` on a real terminal: drawn anew in its place, with no more than there is room for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_DONE, EXIT_INTERRUPTED
from ftcli.runs import rundir
from tests.conftest import REPOSITORY
from tests.reports.folders import run_folder
from tests.terminal import WAIT_SECONDS, Terminal

LINES = 24
"""Of a Terminal."""
Watch = Callable[..., "tuple[Terminal, subprocess.Popen[bytes]]"]


@pytest.fixture
def watch(here: Path) -> Iterator[Watch]:
    """Types `ftcli watch` on a terminal."""
    begun = []

    def start(columns: int = 100, **extra: str) -> tuple[Terminal, subprocess.Popen[bytes]]:
        kept = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
        env = {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8", **extra}
        terminal = Terminal(columns, echo=True)
        begun.append(terminal.run([sys.executable, "-m", "ftcli", "watch"], here, env))
        return terminal, begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def first_words(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines]


def test_of_more_runs_than_lines_those_at_work_and_the_newest_are_drawn_and_all_at_the_end(watch: Watch, here: Path):
    names = [f"a/{number:02}" for number in range(30)]
    folders = [run_folder(here / "runs" / name, done=place != 3) for place, name in enumerate(names)]
    with rundir.at_work(folders[3]):
        terminal, process = watch()
        found = terminal.until(lambda lines: any(line.startswith("and ") for line in lines))
        # The head, a line for each run, the note, and the cursor's own line.
        assert first_words(found) == ["run", "a/03", *names[-(LINES - 4) :], "and"]
        assert found[-1] == "and 9 others: ftcli watch --once shows all"
        first = len(terminal.raw)
        # Drawn anew, and nothing is there twice.
        terminal.until(lambda lines: "run" in terminal.raw[first:] and lines == found)
    (folders[3] / rundir.RESULT).write_bytes((folders[4] / rundir.RESULT).read_bytes())
    assert process.wait(WAIT_SECONDS) == EXIT_DONE
    assert first_words(terminal.shown()) == ["run", *names]


def test_a_narrow_terminal_has_a_line_a_run_with_whole_numbers(watch: Watch, here: Path):
    run = run_folder(here / "runs" / ("name-" * 12) / "1", done=False)
    with rundir.at_work(run):
        for columns in (90, 40, 24):
            terminal, process = watch(columns)
            head, line = terminal.until(lambda lines: len(lines) == 2 and "running" in lines[1])
            assert max(len(head), len(line)) <= columns - 3
            assert line.split()[1] == "running"
            assert not re.search(r"[\d.]…", line)
            process.kill()


def test_one_that_becomes_narrower_keeps_nothing_of_the_wider_table(watch: Watch, here: Path):
    with rundir.at_work(run_folder(here / "runs" / "a" / "1", done=False)):
        terminal, _ = watch(100)
        terminal.until(lambda lines: len(lines) == 2 and "running" in lines[1])
        terminal.resize(40)
        found = terminal.until(lambda lines: len(lines) == 2 and max(map(len, lines)) <= 37)
        assert first_words(found) == ["run", "a/1"]


def test_ctrl_c_ends_it_below_the_table_and_the_terminal_is_as_before(watch: Watch, here: Path):
    with rundir.at_work(run_folder(here / "runs" / "a" / "1", done=False)):
        terminal, process = watch()
        terminal.until(lambda lines: len(lines) == 2)
        terminal.type("\x03")
        assert process.wait(WAIT_SECONDS) == EXIT_INTERRUPTED
        found = terminal.shown()
    assert first_words(found) == ["run", "a/1", "^C", "stopped"]
    assert "\x1b[?" not in terminal.raw


@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"CI": "true"}])
def test_where_nothing_can_be_drawn_anew_it_is_printed_once(watch: Watch, here: Path, extra: dict[str, str]):
    with rundir.at_work(run_folder(here / "runs" / "a" / "1", done=False)):
        terminal, process = watch(**extra)
        assert process.wait(WAIT_SECONDS) == EXIT_DONE
        assert first_words(terminal.shown()) == ["run", "a/1"]
    assert "\x1b" not in terminal.raw


def test_a_folder_without_runs_says_so_and_one_that_is_not_there_names_no_way_back_to_itself(typed, here: Path):
    code, _, told = typed("watch")
    assert (code, "there is no folder runs here" in told, "ftcli watch runs" in told.partition("fix")[2]) == (
        2, True, False,
    )  # fmt: skip
    (here / "runs").mkdir()
    assert typed("watch") == (0, "  no runs here yet\n", "")
    code, _, told = typed("watch", "else where")
    assert (code, "fix: ftcli watch runs" in told, "ftcli watch 'else where'" in told) == (2, True, True)
