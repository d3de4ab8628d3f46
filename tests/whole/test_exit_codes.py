"""Each exit code, provoked on one process and on two, with its cause in end.json.

The faults are real: limits that the kernel sets, files that are gone, signals (tests/whole/faulty_worker.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ftcli import tiny
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.exit_codes import EXIT_CODES, EXIT_DONE, EXIT_GATE, EXIT_NAMES
from ftcli.runs import run_end, rundir
from ftcli.runs.run_end import RunEnd
from tests.ranks import start
from tests.warm import Warm
from tests.whole.conftest import Train
from tests.whole.faulty_worker import STEP

QUICK = (
    "train.max_steps=4", "train.save_steps=1", "train.logging_steps=1", "train.eval_strategy=no", "data.max_rows=32",
    "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
PROOF = bool(os.environ.get("FTCLI_PROOF"))


def prepared(folder: Path, number: int, *words: str) -> Path:
    """The directory of a run that has not begun."""
    run = folder / "run"
    spec = spec_of(Request(overrides=(*QUICK, f"hardware.num_processes={number}", *words, f"run.dir={run}")))
    run.mkdir()
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    return run


class Planted(NamedTuple):
    """What fails in the third step of the last process, and how the run ends of it."""

    fault: str
    code: int
    words: str
    phase: str = "training"
    step: int = STEP


PLANTED = (
    Planted("bug", 1, "LookupError: the planted bug"),
    Planted("memory", 4, "ran out of memory"),
    Planted("python_memory", 4, "ran out of memory"),
    Planted("disk", 6, "cannot be written", "saving checkpoint-3"),
    Planted("checkpoints", 6, "Not a directory", "saving checkpoint-3"),
    Planted("connection", 8, "a connection: was lost"),
)


def sampled(number: int, index: int) -> bool:
    """Whether a case is in the sample: on one process the one, on two the next."""
    return PROOF or number == 1 + index % 2


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("index", "planted"), enumerate(PLANTED), ids=[each.fault for each in PLANTED])
def test_what_fails_in_a_step_is_told_by_its_code_rank_step_and_cause(
    index: int, planted: Planted, number: int, tmp_path: Path, warm: Warm | None
):
    if not sampled(number, index):
        pytest.skip("make proof runs all of them")
    run = prepared(tmp_path, number)
    words = (planted.fault, str(number - 1), "train", str(run))
    done = start(warm, "tests.whole.faulty_worker", *words, cwd=tmp_path, number=number)
    assert done.returncode == (planted.code if number == 1 else 1), done.stderr
    end = run_end.read(run)
    assert end is not None
    # Where files cannot be written, each process meets it by itself.
    assert end.rank in {number - 1, 0} if planted.code == 6 else end.rank == number - 1
    assert (end.code, end.step, end.phase) == (planted.code, planted.step, planted.phase), end.message
    assert planted.words in end.message
    assert ("Traceback" in done.stderr) is (planted.code == 1)


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_whose_folder_vanished_ends_and_makes_no_new_one(number: int, tmp_path: Path, warm: Warm | None):
    if not sampled(number, 1):
        pytest.skip("make proof runs both")
    run = prepared(tmp_path, number)
    words = ("folder", str(number - 1), "train", str(run))
    done = start(warm, "tests.whole.faulty_worker", *words, cwd=tmp_path, number=number)
    assert "is gone, with what the run wrote there" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (6 if number == 1 else 1)
    assert not run.exists()


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_that_is_not_whole_is_5_before_a_process_starts_and_in_it(
    number: int, tmp_path: Path, warm: Warm | None, ftcli_run: Train
):
    if not sampled(number, 0):
        pytest.skip("make proof runs both")
    run = prepared(tmp_path, number)
    ended = ("bug", str(number - 1), "train", str(run))
    start(warm, "tests.whole.faulty_worker", *ended, cwd=tmp_path, number=number)
    run_end.remove(run)
    newest = run / rundir.CHECKPOINTS / f"checkpoint-{STEP - 1}"
    (newest / "scheduler.pt").unlink()  # once the front half has chosen it
    words = ("train", str(run), "--resume", str(newest))
    done = start(warm, "ftcli.worker", *words, cwd=tmp_path, number=number)
    end = run_end.read(run)
    assert end is not None
    assert (end.code, done.returncode, end.phase) == (5, 5 if number == 1 else 1, "preparing to train")
    assert "scheduler.pt is missing" in end.message
    for manifest in run.glob(f"{rundir.CHECKPOINTS}/*/manifest.json"):
        manifest.unlink()
    ftcli_run("train", "--resume", str(run), cwd=tmp_path, expect=5)


def rows_gone(folder: Path, _run: Path) -> None:
    """The rows vanish."""
    (folder / "rows.jsonl").unlink()


def rows_broken(folder: Path, _run: Path) -> None:
    """A row is cut short."""
    file = folder / "rows.jsonl"
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")


def model_gone(folder: Path, _run: Path) -> None:
    """The model vanishes."""
    shutil.rmtree(folder / "model")


def weights_gone(folder: Path, _run: Path) -> None:
    """Its weights do."""
    (folder / "model" / "model.safetensors").unlink()


def tokenizer_gone(folder: Path, _run: Path) -> None:
    """Its tokenizer does."""
    (folder / "model" / "tokenizer.json").unlink()


def spec_gone(_folder: Path, run: Path) -> None:
    """The run has no spec any more."""
    (run / rundir.SPEC).unlink()


def no_rate(_folder: Path, run: Path) -> None:
    """No number can be trained at this rate."""
    file = run / rundir.SPEC
    file.write_text(file.read_text(encoding="utf-8").replace("0.0123", "1e38"), encoding="utf-8")


Break = Callable[[Path, Path], None]
BEFORE: tuple[tuple[Break, int, str], ...] = (
    (rows_gone, 2, "rows.jsonl"),
    (rows_broken, 3, "rows.jsonl"),
    (model_gone, 2, "model"),
    (weights_gone, 2, "model"),
    (tokenizer_gone, 2, "model"),
    (spec_gone, 2, "cannot be read"),
    (no_rate, 7, ""),
)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("index", "breaks", "code", "words"),
    [(index, *case) for index, case in enumerate(BEFORE)], ids=[case[0].__name__ for case in BEFORE],
)  # fmt: skip
def test_what_is_wrong_once_the_worker_comes_is_told_by_its_code(
    index: int, breaks: Break, code: int, words: str, number: int, tmp_path: Path, warm: Warm | None
):
    if not sampled(number, index):
        pytest.skip("make proof runs all of them")
    rows = tiny.set_path("sft", "train").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[:32]), encoding="utf-8")
    shutil.copytree(tiny.MODEL_DIR, tmp_path / "model")
    own = (f"data.path={tmp_path}/rows.jsonl", f"model.name_or_path={tmp_path}/model", "train.learning_rate=0.0123")
    run = prepared(tmp_path, number, *own)
    breaks(tmp_path, run)
    done = start(warm, "ftcli.worker", "train", str(run), cwd=tmp_path, number=number)
    end = run_end.read(run)
    assert end is not None, done.stderr
    assert (end.code, done.returncode) == (code, code if number == 1 else 1), done.stderr
    assert words in end.message
    assert "Traceback" not in done.stderr


def test_every_code_has_a_name_and_is_provoked_somewhere():
    assert EXIT_NAMES.keys() == EXIT_CODES.keys()
    here = {each.code for each in PLANTED} | {code for _, code, _ in BEFORE}
    elsewhere = {EXIT_DONE, 5, 75, EXIT_GATE}  # tests/whole/test_lost_ranks.py, tests/whole/test_gate.py
    assert here | elsewhere == EXIT_CODES.keys()


def test_an_end_that_somebody_edited_is_no_end(tmp_path: Path):
    end = RunEnd(code=8, message="rank 1\x1b[2J died", rank=1, host="here", step=3, phase="training")
    run_end.write(tmp_path, end)
    assert run_end.read(tmp_path) == end
    assert end.text() == "exit code 8, rank_lost (rank 1 on here, at step 3, while training): rank 1\\u001b[2J died"
    file = tmp_path / rundir.END
    for text in ("", "[]", "{}", file.read_text().replace("8", '"8"'), file.read_text().replace("8", "88")):
        file.write_text(text)
        assert run_end.read(tmp_path) is None
