"""The live view of a training, on a real terminal of the kernel's, read as a person would see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftcli.runs.worker_records import Record, kind, read
from tests.conftest import REPOSITORY
from tests.terminal import Terminal

COMMAND = """
import subprocess, sys
from pathlib import Path
from ftcli.cli import output
from ftcli.cli.render.live_view import drawn
from ftcli.core.untrusted.printable import cleaned
from ftcli.launch import output_pump, screen

sys.stderr = cleaned(sys.stderr)
with drawn():
    print("drawn" if screen.own_screen() is not None else "lines")
    worker = subprocess.Popen([sys.executable, "worker.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    pump = output_pump.Pump(worker.stdout, Path("log.txt"))
    if Path("note").exists():
        output.note("a note of the command's own")
    worker.wait()
    pump.finish(60)
output.say(f"ended with {worker.returncode}")
"""
WORKER = """
import sys, time
from pathlib import Path
from ftcli.runs.worker_records import OWN, Record

def say(text):
    sys.stderr.write(f"{OWN}{text}\\n")
    sys.stderr.flush()

def send(**told):
    sys.stderr.write(Record(**told).text())
    sys.stderr.flush()

def wait(name):
    Path(f"at-{name}").touch()
    while not Path(name).exists():
        time.sleep(0.01)
"""
PREPARES = """
send(begins="preparing rows")
send(ends="preparing rows", seconds=1.25)
send(begins="judging")
send(done=3, total=8, unit="answers")
send(ends="judging", seconds=2)
send(begins="loading the rewards")
send(ends="loading the rewards", seconds=0.001)
say("rows            1928 read: 1928 kept")
"""
TRAINS = """
send(begins="training")
send(done=3, total=20, unit="steps", seconds_left=61.0, line="step 3/20  loss 2.1000", measures={
    "loss": 2.1, "tokens_per_second": 12345.6, "peak_resident_gib": 1.25})
"""
ENDS = """
send(begins="saving checkpoint-10")
send(ends="saving checkpoint-10", seconds=0.5)
send(done=20, total=20, unit="steps", line="step 20/20  held-out loss 1.5", measures={"loss": 1.5, "eval_loss": 1.75})
send(ends="training", seconds=75)
"""
MEASURED = "judging ━ 2.0s"
Run = Callable[..., "Shown"]


class Shown:
    """A command on a terminal."""

    def __init__(self, folder: Path, terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.terminal, self.process = folder, terminal, process

    def let_on(self, name: str) -> None:
        """Let the worker go on from `wait(name)`."""
        (self.folder / name).touch()

    def at(self, name: str) -> None:
        """Wait until the worker waits there."""
        self.terminal.until(lambda _: (self.folder / f"at-{name}").exists())

    def over(self) -> list[str]:
        """What stands on the screen at the end."""
        self.process.wait(120)
        return self.terminal.shown()


@pytest.fixture
def on_terminal(tmp_path: Path) -> Iterator[Run]:
    """Starts a command with a worker that does as it is told, on a terminal."""
    begun = []

    def start(*parts: str, columns: int = 100, echo: bool = False, **extra: str) -> Shown:
        (tmp_path / "worker.py").write_text(WORKER + "\n".join(parts))
        terminal = Terminal(columns, echo=echo)
        kept = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
        env = {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8", **extra}
        process = terminal.run([sys.executable, "-c", COMMAND], tmp_path, env)
        begun.append(process)
        return Shown(tmp_path, terminal, process)

    yield start
    for process in begun:
        process.kill()
        process.wait()


def rows(lines: list[str]) -> list[str]:
    """Lines with each bar as one mark, and without times."""
    found = []
    for line in lines:
        words = ["━" if set(word) <= set("━╸╺") else word for word in line.split()]
        found.append(" ".join(word for place, word in enumerate(words) if word != "━" or words[place - 1] != "━"))
    return found


@pytest.mark.parametrize("columns", [48, 100])
def test_a_bar_for_each_phase_is_drawn_in_place_and_its_end_stays(on_terminal: Run, columns: int) -> None:
    run = on_terminal(PREPARES, TRAINS, "wait('on')", ENDS, columns=columns)
    run.at("on")
    found = run.terminal.until(lambda lines: any("3/20" in line for line in lines))
    assert rows(found)[:4] == ["drawn", "preparing rows ━ 1.2s", MEASURED, "rows 1928 read: 1928 kept"]
    assert rows(found)[4].startswith("training ━ 3/20 steps 1:0")
    assert found[4].endswith("left")
    assert found[5] == "  loss 2.1000  12,346 tokens/s  1.2 GiB"
    assert all(len(line) <= columns - 3 for line in found)
    run.let_on("on")
    found = run.over()
    assert rows(found)[:4] == ["drawn", "preparing rows ━ 1.2s", MEASURED, "rows 1928 read: 1928 kept"]
    assert rows(found)[4].startswith("training ━ 20/20 steps 1:15")
    measured = ["loss 1.5000", "held-out loss 1.7500", "12,346 tokens/s", "1.2 GiB"]
    lines = [measured] if columns == 100 else [measured[:2], measured[2:]]
    assert found[5:-2] == ["  " + "  ".join(each) for each in lines]
    assert found[-2:] == ["  saving checkpoint 0.5s", "ended with 0"]


def test_the_log_keeps_the_lines_of_progress_that_a_plain_terminal_shows(on_terminal: Run) -> None:
    run = on_terminal(PREPARES, TRAINS, ENDS)
    run.over()
    assert (run.folder / "log.txt").read_text().splitlines() == [
        "rows            1928 read: 1928 kept", "step 3/20  loss 2.1000", "step 20/20  held-out loss 1.5",
    ]  # fmt: skip


def test_a_terminal_that_becomes_narrower_and_wider_keeps_nothing_half_drawn(on_terminal: Run) -> None:
    run = on_terminal(PREPARES, TRAINS, "wait('narrow')", "say('between')", "wait('wide')", ENDS)
    run.at("narrow")
    run.terminal.until(lambda lines: any("3/20" in line for line in lines))
    run.terminal.resize(44)
    run.let_on("narrow")
    run.at("wide")
    found = run.terminal.until(lambda lines: "between" in lines and len(lines[-1]) <= 41)
    assert rows(found[:5]) == ["drawn", "preparing rows ━ 1.2s", MEASURED, "rows 1928 read: 1928 kept", "between"]
    assert [line.split()[0] for line in found[5:]] == ["training", "loss"]
    run.terminal.resize(120)
    run.let_on("wide")
    assert [line.split()[0] for line in run.over()] == [
        "drawn", "preparing", "judging", "rows", "between", "training", "loss", "saving", "ended",
    ]  # fmt: skip


def test_an_error_that_ends_the_worker_is_the_last_that_is_seen(on_terminal: Run) -> None:
    crash = "send(ends='training', failed=True)\nsay('rows.jsonl:3  is no JSON')\nraise SystemExit(1)\n"
    assert rows(on_terminal(PREPARES, TRAINS, crash).over()) == [
        "drawn", "preparing rows ━ 1.2s", MEASURED, "rows 1928 read: 1928 kept",
        "rows.jsonl:3 is no JSON", "ended with 1",
    ]  # fmt: skip


def test_a_worker_that_is_killed_leaves_no_bar(on_terminal: Run) -> None:
    killed = f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    assert rows(on_terminal(TRAINS, killed).over()) == ["drawn", "ended with -9"]


def test_notes_stand_above_the_bar_as_lines_of_their_own(on_terminal: Run, tmp_path: Path) -> None:
    (tmp_path / "note").touch()
    half = "sys.stderr.write('half a line of a library'); sys.stderr.flush()\n"
    run = on_terminal(TRAINS, half, "send(done=4, total=20, unit='steps')", half, "say('a line')")
    assert sorted(run.over()) == ["a line", "a note of the command's own", "drawn", "ended with 0"]
    kept = (tmp_path / "log.txt").read_text().splitlines()
    assert kept == ["step 3/20  loss 2.1000", *["half a line of a library"] * 2, "a line"]


def test_what_is_typed_meanwhile_goes_with_the_next_drawing(on_terminal: Run) -> None:
    run = on_terminal(TRAINS, "wait('on')", columns=60, echo=True)
    run.at("on")
    run.terminal.until(lambda lines: any("3/20" in line for line in lines))
    run.terminal.type("ab")
    run.terminal.until(lambda lines: any(line.endswith("ab") for line in lines))
    run.terminal.until(lambda lines: not any(line.endswith("ab") for line in lines))
    run.let_on("on")
    assert run.over() == ["drawn", "ended with 0"]


def test_without_colour_the_bars_stay(on_terminal: Run) -> None:
    run = on_terminal(TRAINS, "wait('on')", ENDS, NO_COLOR="1")
    run.terminal.until(lambda lines: any("━" in line and "3/20" in line for line in lines))
    run.let_on("on")
    assert any("━" in line for line in run.over())
    colours = {piece.partition("m")[0] for piece in run.terminal.raw.split("\x1b[")[1:] if "m" in piece[:12]}
    assert colours <= {"0", "2"}  # dim, which is no colour


def test_bars_have_colours_otherwise(on_terminal: Run) -> None:
    run = on_terminal(TRAINS, ENDS)
    run.over()
    assert "\x1b[38;5;" in run.terminal.raw


@pytest.mark.parametrize("extra", [{"TERM": "dumb"}, {"TERM": ""}, {"CI": "true"}])
def test_where_nothing_can_be_drawn_anew_there_are_lines(on_terminal: Run, extra: dict[str, str]) -> None:
    assert on_terminal("say('step 1/20')", **extra).over() == ["lines", "step 1/20", "ended with 0"]


def test_text_that_looks_like_a_record_is_text() -> None:
    text = Record(begins="x\x1b[2J", measures={"loss": 1.0}, line="a\nb").text()
    assert text.count("\n") == 1
    found = read(text[1:])
    assert found is not None
    assert (found.begins, found.measures, found.line) == ("x\x1b[2J", {"loss": 1.0}, "a\nb")
    damaged = (
        "", "[]", "{", '{"begins": 3}', '{"done": -1}', '{"done": true}', '{"measures": {"loss": "x"}}',
        '{"measures": {"other": 1}}', '{"other": 1}', '{"seconds_left": NaN}', "[" * 100_000,
        '{"begins": "' + "x" * 201 + '"}',
    )  # fmt: skip
    assert [read(each) for each in damaged] == [None] * len(damaged)


def test_a_phase_is_of_the_same_kind_at_each_step() -> None:
    names = ("evaluating at step 5", "answering prompts for step 12", "saving checkpoint-300", "loading the model")
    assert [kind(name) for name in names] == [
        "evaluating", "answering prompts", "saving checkpoint", "loading the model",
    ]  # fmt: skip
