"""Who writes in a run's folder: one command at a time, and none where a worker is still at work."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from ftcli.core.errors import CheckpointError, ConfigError, Problem
from ftcli.runs import rundir
from tests.conftest import REPOSITORY


def _make(folder: Path, gate: object, made: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    try:
        with rundir.created(folder):
            (folder / rundir.SPEC).write_text("{}")
        made.put("made")  # type: ignore[attr-defined]
    except ConfigError as error:
        made.put(str(error))  # type: ignore[attr-defined]


def test_of_commands_that_make_the_same_folder_at_once_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, made = context.Barrier(4), context.Queue()
    makers = [context.Process(target=_make, args=(tmp_path / "run", gate, made)) for _ in range(4)]
    for maker in makers:
        maker.start()
    said = [made.get(timeout=120) for _ in makers]
    for maker in makers:
        maker.join(timeout=120)
    assert said.count("made") == 1
    assert all("not empty" in text or "in use" in text for text in said if text != "made")


def test_a_worker_that_outlives_its_command_keeps_others_out(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ftcli.runs import rundir\n"
        "with rundir.at_work(Path(sys.argv[1])):\n"
        "    print('at work', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as worker:  # type: ignore[call-overload]
        assert worker.stdout.readline() == "at work\n"
        with pytest.raises(ConfigError, match="in use by another process"), rundir.exclusive(tmp_path):
            pass
        assert not (tmp_path / rundir.LOCK).exists()
        worker.communicate()
    with rundir.exclusive(tmp_path), rundir.at_work(tmp_path):  # a command and its own worker
        pass


def test_what_is_refused_leaves_no_lock_where_there_was_none(tmp_path: Path) -> None:
    for refusal in (ConfigError, CheckpointError):
        with pytest.raises(refusal), rundir.exclusive(tmp_path):
            raise refusal(Problem("", "refused"))
        assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"), rundir.created(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"), rundir.created(tmp_path / "file" / "run"):
        pass
    (tmp_path / rundir.LOCK).mkdir()
    with pytest.raises(ConfigError, match="cannot be written in"), rundir.exclusive(tmp_path):
        pass


@pytest.mark.parametrize("name", [rundir.SPEC, rundir.PIPELINE])
def test_a_folder_whose_first_file_was_being_written_at_a_kill_is_empty(name: str, tmp_path: Path):
    (tmp_path / rundir.LOCK).touch()
    (tmp_path / f".{name}.4711").write_text("{", encoding="utf-8")  # as write_atomically names it
    with rundir.created(tmp_path) as folder:
        assert [path.name for path in folder.iterdir()] == [rundir.LOCK]
    (tmp_path / f".{name}.mine").touch()
    with pytest.raises(ConfigError, match="not empty"), rundir.created(tmp_path):
        pass
