"""What a run will write is planned near what it writes, and a disk without that much room is refused beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftcli.build.resolve import spec_of
from ftcli.cli import main
from ftcli.cli.requirements import require_disk
from ftcli.config.compose import Request
from ftcli.plan.disk import DiskEstimate, disk_at_most
from ftcli.plan.memory import GIB
from ftcli.plan.outlook import plan, trainable_parameters
from ftcli.plan.resolved_run import ResolvedRun
from ftcli.runs import rundir
from tests.whole.conftest import Train
from tests.whole.small_disk import mounted

BRIEF = (
    "train.max_steps=3", "train.save_strategy=steps", "train.save_steps=1", "train.eval_strategy=no",
    "data.max_rows=24", "run.score_rows=0", "hardware=cpu", "hardware.num_threads=1",
)  # fmt: skip
KINDS = {
    "adapter": ("peft=lora",),
    "full": ("peft=none",),
    "critic": ("method=ppo", "method.rewards={ended: 1}", "method.max_new_tokens=4"),
}


def planned(*overrides: str) -> DiskEstimate:
    found = plan(ResolvedRun.of(spec_of(Request(overrides=overrides)))).disk
    assert found is not None
    return found


def gib_below(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIB


@pytest.mark.parametrize("name", KINDS)
def test_what_is_planned_is_near_what_is_written(name: str, tmp_path: Path, ftcli_run: Train):
    found = planned(*KINDS[name], *BRIEF)
    ftcli_run("train", *KINDS[name], *BRIEF, "run.dir=run", cwd=tmp_path)
    run = tmp_path / "run"
    assert found.checkpoints == len(list((run / rundir.CHECKPOINTS).glob("checkpoint-*"))) == 3
    for gib, folder in (
        (found.checkpoint_gib, run / rundir.CHECKPOINTS / "checkpoint-3"),
        (found.model_gib, run / rundir.MODEL),
        (found.run_gib, run),
    ):
        assert 0.95 * gib_below(folder) < gib < 1.3 * gib_below(folder) + 1.1 / 1024


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        (("train.save_strategy=no",), 1),  # of a run that is stopped
        (("train.save_strategy=steps", "train.save_steps=10"), 4),  # 10, 20, 30 and the end at 35
        (("train.save_strategy=steps", "train.save_steps=0.5"), 2),  # every 18th: 18 and the end
        (("train.save_strategy=steps", "train.save_steps=10", "train.save_total_limit=1"), 2),
        (("train.save_strategy=steps", "train.save_steps=10", "train.save_total_limit=3"), 4),
        (("train.save_strategy=steps", "train.save_steps=10", "train.save_total_limit=9"), 4),
    ],
)
def test_as_many_checkpoints_are_planned_as_the_run_holds_at_its_fullest(settings: tuple[str, ...], held: int):
    assert planned("train.max_steps=35", "train.eval_strategy=no", *settings).checkpoints == held


def test_where_there_is_room_in_any_case_no_row_is_counted(monkeypatch: pytest.MonkeyPatch):
    settings = ("peft=lora", "train.eval_strategy=no", "train.save_total_limit=2", "train.save_steps=10")
    run = ResolvedRun.of(spec_of(Request(overrides=settings)))
    counted, most = planned(*settings), disk_at_most(run, trainable_parameters(run))
    assert most is not None
    assert most.checkpoints == counted.checkpoints == 3
    assert counted.run_gib < most.run_gib < counted.run_gib + 0.1
    assert counted.cache_gib < most.cache_gib
    monkeypatch.setattr("ftcli.plan.outlook.plan", None)
    require_disk([run])
    # Without a limit, only the rows say how many checkpoints there will be.
    run = ResolvedRun.of(spec_of(Request(overrides=("train.save_total_limit=null",))))
    assert disk_at_most(run, trainable_parameters(run)) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight MiB."""
    with mounted(tmp_path / "disk", 8 << 20) as place:
        yield place


def test_a_run_that_does_not_fit_the_disk_is_refused_before_its_folder_is_made(small_disk: Path, ftcli_run: Train):
    full = ("train", "peft=none", *BRIEF, "run.dir=run")
    done = ftcli_run(*full, cwd=small_disk, expect=6)
    assert "checkpoints of 16." in ftcli_run("plan", *full[1:], cwd=small_disk).stdout
    assert "8.0 MiB free at" in done.stderr
    assert "train.save_total_limit; or --anyway" in done.stderr
    assert list(small_disk.iterdir()) == []
    # A checkpoint of an adapter, three MiB, fits beside the final one.
    ftcli_run("train", "peft=lora", *BRIEF, "train.max_steps=1", "run.dir=run", cwd=small_disk)
    # Five more do not: the resume is refused, and changes nothing.
    result = (small_disk / "run" / rundir.RESULT).read_bytes()
    done = ftcli_run("train", "--resume", "run", "train.max_steps=6", cwd=small_disk, expect=6)
    assert "what is left to write needs" in done.stderr
    assert (small_disk / "run" / rundir.RESULT).read_bytes() == result


def test_a_pipeline_that_does_not_fit_the_disk_is_refused_before_its_folder_is_made(small_disk: Path, ftcli_run: Train):
    done = ftcli_run("train", "method=rlhf", *BRIEF, "run.dir=run", cwd=small_disk, expect=6)
    assert "the run needs" in done.stderr
    assert list(small_disk.iterdir()) == []


def test_the_free_space_is_asked_where_the_run_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(total=9 << 20, free=3 << 20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert main(["train", "peft=lora", *BRIEF, f"run.dir={tmp_path}/deep/run"]) == 6
    assert set(asked) == {tmp_path}
    assert "3.0 MiB free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
