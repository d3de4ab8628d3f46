"""A disk that is full at any point: exit code 6, the last checkpoint whole, no staging, and on once space is free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from ftcli.cli import main
from ftcli.core.errors import DiskError
from ftcli.launch.local import Pump
from ftcli.runs import checkpoints, rundir
from ftcli.synthesis.journal import ITEMS, Journal
from ftcli.worker.process.exhausted import as_situation
from ftcli.worker.process.progress import Progress
from tests.conftest import MakeOnce
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment
from tests.whole.small_disk import enlarge, mounted

COMMAND = (
    "train", "peft=lora", "peft.lora_dropout=0.1", "train.max_steps=4", "train.save_strategy=steps",
    "train.save_steps=2", "train.eval_strategy=no", "data.max_rows=40", "run.score_rows=0", "hardware=cpu",
    "hardware.num_threads=1", "--anyway", "run.dir=run",
)  # fmt: skip
PROOF = bool(os.environ.get("FTCLI_PROOF"))
# Where the disk ends, as a share of what the run writes: in its first files, before the first checkpoint, within it,
# within the second, within the final model, and at the result.
SHARES = (0.001, 0.1, 0.41, 0.7, 0.93, 0.995)
SAMPLE = (0.41, 0.93)
FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def whole(once: MakeOnce, ftcli_run: Train) -> Path:
    """The run on a disk with room."""
    return once("whole-disk", lambda folder: ftcli_run(*COMMAND, cwd=folder)) / "run"


def weights(run: Path) -> bytes:
    return (run / rundir.MODEL / "adapter_model.safetensors").read_bytes()


def left_over(folder: Path) -> list[str]:
    """What a write that failed left beside the files of a run."""
    hidden = [path for path in folder.rglob(".*") if ".lock" not in path.name]
    return [str(path) for path in hidden]


def require_promises(run: Path) -> None:
    """No staging, and every checkpoint that is there is whole."""
    assert left_over(run) == []
    for path in checkpoints.sealed(run / rundir.CHECKPOINTS):
        assert checkpoints.verify(path, needs=("optimizer.pt", "adapter_exact.pt")) == []


@pytest.mark.parametrize("share", SHARES)
def test_a_run_on_a_disk_that_fills_up_goes_on_to_the_same_weights(
    share: float, whole: Path, tmp_path: Path, ftcli_run: Train
):
    if share not in SAMPLE and not PROOF:
        pytest.skip("make proof takes six sizes")
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in whole.rglob("*") if path.is_file())
    with mounted(tmp_path / "disk", int(share * size)) as disk:
        done = ftcli_run(*COMMAND, cwd=disk, expect=6)
        assert "free some space" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        run = disk / "run"
        if run.is_dir():
            require_promises(run)
            assert not (run / rundir.RESULT).exists()
        enlarge(disk)
        resumes = rundir.is_run(run)
        ftcli_run(*(("train", "--resume", "run") if resumes else COMMAND), cwd=disk)
        assert weights(run) == weights(whole)
        assert main(["verify", str(run)]) == 0


def test_a_save_that_the_system_cuts_short_ends_the_run_with_its_last_checkpoint(
    whole: Path, tmp_path: Path, ftcli_run: Train
):
    # No file may be larger than a MiB: the optimizer's state is cut, as by a quota that no free space shows.
    command = ["sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", sys.executable, "-m", "ftcli", *COMMAND]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert f"ftcli train --resume {tmp_path / 'run'}" in done.stderr
    require_promises(tmp_path / "run")
    assert checkpoints.sealed(tmp_path / "run" / rundir.CHECKPOINTS) == []
    ftcli_run("train", "--resume", "run", cwd=tmp_path)
    assert weights(tmp_path / "run") == weights(whole)


def test_prepared_tokens_that_find_no_room_end_with_the_code_of_the_disk(tmp_path: Path, ftcli_run: Train):
    with mounted(tmp_path / "cache", 16 << 10) as cache:
        done = ftcli_run(*COMMAND, cwd=tmp_path, expect=6, XDG_CACHE_HOME=str(cache))
        assert "the prepared tokens cannot be written there" in done.stderr
        assert "XDG_CACHE_HOME" in done.stderr
        assert [path for path in (cache / "ftcli" / "prepared").iterdir() if path.is_dir()] == []
        require_promises(tmp_path / "run")


@pytest.mark.skipif(not PROOF, reason="make proof fills the disk of two processes")
@pytest.mark.parametrize("share", [0.1, 0.41, 0.7, 0.93])
def test_two_processes_on_a_disk_that_fills_up_end_alike(share: float, whole: Path, tmp_path: Path, ftcli_run: Train):
    command = (*COMMAND, "hardware.num_processes=2", "train.per_device_train_batch_size=4")
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    with mounted(tmp_path / "disk", int(share * size)) as disk:
        done = ftcli_run(*command, cwd=disk, expect=6, real=True)
        assert "free some space" in done.stderr
        require_promises(disk / "run")
        enlarge(disk)
        ftcli_run("train", "--resume", "run", cwd=disk, real=True)
        assert main(["verify", str(disk / "run")]) == 0


@pytest.mark.skipif(not PROOF, reason="make proof fills the disk of a pipeline")
@pytest.mark.parametrize("share", [0.002, 0.3, 0.7])
def test_a_pipeline_on_a_disk_that_fills_up_goes_on(share: float, tmp_path: Path, ftcli_run: Train):
    brief = [word for word in COMMAND if not word.startswith(("peft", "run.dir"))]
    command = (*brief, "method=rlhf", "run.dir=run")
    ftcli_run(*command, cwd=tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    with mounted(tmp_path / "disk", int(share * size)) as disk:
        done = ftcli_run(*command, cwd=disk, expect=6)
        assert "Traceback" not in done.stderr
        assert left_over(disk) == []
        enlarge(disk)
        begun = rundir.is_pipeline(disk / "run")
        ftcli_run(*(("train", "--resume", "run") if begun else command), cwd=disk)
        ours, theirs = ((run / "ppo" / rundir.MODEL / "model.safetensors").read_bytes() for run in
                        (disk / "run", tmp_path / "run"))  # fmt: skip
        assert ours == theirs


@pytest.fixture
def full() -> Path:
    """A file whose every write finds the disk full."""
    if not FULL.exists():
        pytest.skip("there is no /dev/full here")
    return FULL


def test_a_line_of_metrics_that_finds_no_room_is_no_bug(full: Path, tmp_path: Path):
    progress = Progress(tmp_path)
    state, arguments = TrainerState(max_steps=2), TrainingArguments(output_dir=str(tmp_path), report_to=[])
    progress.on_train_begin(arguments, state, TrainerControl())
    progress._file = open(full, "a", encoding="utf-8")  # noqa: SIM115, as the callback keeps it open
    with pytest.raises(OSError, match="No space left") as caught:
        progress.on_log(arguments, state, TrainerControl(), {"loss": 1.0})
    assert isinstance(as_situation(caught.value), DiskError)


def test_items_that_find_no_room_are_no_bug_and_stay_unanswered(full: Path, tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add([{"key": "a", "row": None}])
    (tmp_path / ITEMS).rename(tmp_path / "kept")
    (tmp_path / ITEMS).symlink_to(full)
    with pytest.raises(OSError, match="No space left") as caught:
        journal.add([{"key": "b", "row": None}])
    assert isinstance(as_situation(caught.value), DiskError)
    assert list(journal.done) == ["a"]


def test_a_log_that_finds_no_room_stops_nobody(full: Path, capsys: pytest.CaptureFixture[str]):
    # More than a pipe holds: were it not read, the process would wait for ever.
    program = "import sys; sys.stdout.write('\\x1eline of output\\n' * 20_000)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pump = Pump(process.stdout, full)
        assert process.wait(timeout=TIMEOUT_SECONDS) == 0
        pump.join(timeout=TIMEOUT_SECONDS)
        assert not pump.is_alive()
    assert capsys.readouterr().err.count("line of output") == 20_000


def test_a_file_that_is_written_at_once_leaves_nothing_where_there_is_no_room(tmp_path: Path):
    with mounted(tmp_path / "disk", 8 << 10) as disk:
        rundir.write_json(disk / "kept.json", {"a": 1})
        with pytest.raises(OSError, match="No space left"):
            rundir.write_json(disk / "kept.json", {"a": "x" * 20_000})
        assert [path.name for path in disk.iterdir()] == ["kept.json"]
        assert json.loads((disk / "kept.json").read_text()) == {"a": 1}
