"""The card check, rehearsed in part: `make gpu-rehearsal` runs every stage on a CPU, `make gpu` on a card."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.gpu import check, stages_learning, stages_memory, stages_speed
from tests.gpu.bench import Bench, Done, Findings, environment
from tests.gpu.random_models import config_of, write
from tests.gpu.stage import STAGES, outcome
from tests.gpu.wheels import LIMIT_MIB, keep_one_library, travels_mib, unpacked
from tests.warm import Warm

REHEARSED = ["--device", "cpu", "--tiny"]
SECONDS = 120


@pytest.fixture(scope="module")
def bench(warm: Warm | None, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A rehearsal whose commands are forked, with the model that its stages train."""
    folder = tmp_path_factory.mktemp("card")

    def start(words: Sequence[str], where: Path, said: str, limit_gib: float | None) -> Done:
        assert warm is not None
        done = warm.run(words, where, environment(where), SECONDS)
        return Done(words, done.returncode, done.stdout, done.stderr, 0.0)

    write(config_of("small", small=True), folder / "models" / "small", "cpu")
    return Bench(folder, "cpu", tiny=True, **({"start": start} if warm else {}))


@pytest.mark.parametrize("stage", [stages_learning.moves, stages_learning.packed, stages_learning.positions])
def test_a_stage_passes_in_the_rehearsal(stage: Callable[[Bench, Findings], None], bench: Bench) -> None:
    found = outcome(stage, bench)
    assert found["status"] == "passed", found["why"]
    assert json.loads(json.dumps(found)) == found


def test_weights_that_did_not_move_are_seen(bench: Bench, tmp_path: Path) -> None:
    start = bench.folder / "models" / "small"
    shutil.copytree(start, tmp_path / "checkpoints" / "checkpoint-3")
    assert stages_learning.share_moved(start, tmp_path) == 0


def test_a_stage_tells_what_is_wrong_and_what_a_cpu_cannot_judge(bench: Bench) -> None:
    def stage(_: Bench, found: Findings) -> None:
        found.expect(1 + 1 == 2, "a sum")
        found.expect(1 + 1 == 3, "another sum")
        found.expect_on_card(False, "a peak")

    found = outcome(stage, bench)
    assert (found["status"], found["why"], found["not_judged"]) == ("failed", "another sum", ["a peak"])


def test_a_command_that_fails_is_told_with_its_last_lines(bench: Bench) -> None:
    def stage(bench: Bench, found: Findings) -> None:
        bench.train("unknown", "method=none-such")

    found = outcome(stage, bench)
    assert found["status"] == "failed"
    assert "exit 2, not 0" in found["why"]
    assert "method=none-such" in found["why"]


def test_the_plans_are_of_ten_runs_whose_settings_hold(bench: Bench) -> None:
    assert len(stages_memory.CASES) == 10
    assert stages_memory.RATIOS == (0.90, 1.15)


def checked(*words: str, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run the script as a user does: its exit code and its lines."""
    command = [sys.executable, str(REPOSITORY / "tests" / "gpu" / "check.py"), *REHEARSED, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--wheels", str(folder / "none"), *words], cwd=folder, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_script_prints_a_line_for_each_stage_and_sums_up(tmp_path: Path) -> None:
    code, lines = checked("--only", "doctor", "--out", str(tmp_path / "lines"), folder=tmp_path)
    assert code == 0
    assert [line["stage"] for line in lines] == ["start", "doctor", "summary"]
    assert lines[1]["figures"]["libraries"]["trl"]
    assert (lines[2]["passed"], lines[2]["failed"], lines[2]["skipped"]) == (["doctor"], [], [])
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == lines


def test_a_stage_that_would_not_fit_the_time_left_is_skipped(tmp_path: Path) -> None:
    code, lines = checked("--from", "plans", "--deadline", "12", folder=tmp_path)
    skipped = lines[-1]["skipped"]
    assert (code, skipped) == (0, list(STAGES)[list(STAGES).index("plans") :])
    assert re.fullmatch("needs about 60 s, and [0-4] are left", lines[1]["why"])


def test_a_stage_is_ended_with_all_that_it_started_when_its_time_is_over(tmp_path: Path) -> None:
    options = check.parsed([*REHEARSED, "--folder", str(tmp_path)])
    found = check.run_stage("models", options, 1.0)
    assert found["status"] == "failed"
    assert found["why"].startswith("ended after its 1 seconds")
    mine = [child for child in psutil.Process().children(recursive=True) if "tests.gpu.stage" in child.cmdline()]
    assert not mine


def test_an_unknown_stage_and_a_rehearsal_to_keep_are_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="no stage plan; stages are doctor, models"):
        check.chosen(check.parsed([*REHEARSED, "--from", "plan"]), list(STAGES))
    for words in ([*REHEARSED, "--save"], ["--device", "cpu"]):
        with pytest.raises(SystemExit):
            check.parsed(words)
    assert "not a rehearsal" in capsys.readouterr().err


def test_what_a_card_showed_is_kept_beside_what_it_showed_before_and_a_rehearsal_is_not(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    check.save([{"stage": "demo", "status": "passed"}, {"stage": "plans", "status": "failed"}], path)
    again = [{"stage": "plans", "status": "passed"}, {"stage": "demo", "status": "skipped"}]
    check.save([*again, {"stage": "summary", "device": "cuda", "tiny": False}], path)
    kept = json.loads(path.read_text())
    assert {name: line.get("status") for name, line in kept.items()} == {
        "demo": "passed", "plans": "passed", "summary": None,
    }  # fmt: skip
    with pytest.raises(SystemExit, match="a rehearsal"):
        check.save([{"stage": "summary", "device": "cpu", "tiny": True}], path)


def test_losses_are_compared_over_the_same_steps_and_times_without_the_first_half() -> None:
    # the first step is logged too: the mean of five steps is (5 + 4 · 4) / 5 = 4.2, that of the next five is 3
    lines = [{"step": 1, "loss": 5.0}, {"step": 5, "loss": 4.0}, {"step": 10, "loss": 3.0}]
    assert stages_speed.means(lines, 5) == [4.2, 3.0]
    assert stages_speed.seconds_per_step([0.0, 9.0, 19.0, 21.0, 22.0, 25.0], 2) == 1.0  # the median of 2, 1 and 3


def test_the_time_of_all_stages_is_that_of_one_command_of_nine_minutes() -> None:
    assert sum(stage.needs_seconds for stage in STAGES.values()) < check.DEADLINE_SECONDS < 540


def test_wheels_are_unpacked_without_pip_and_come_before_what_is_installed(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "dill-9.9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("dill/__init__.py", "carried = True\n")
        wheel.writestr("dill-9.9.dist-info/METADATA", "Name: dill\nVersion: 9.9\n")
    assert unpacked(wheels, site) == ["dill-9.9-py3-none-any.whl"]
    code = "import dill; from importlib.metadata import version; print(dill.carried, version('dill'))"
    told = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["True", "9.9"]
    (wheels / "dill-9.9-py3-none-any.whl").unlink()
    assert unpacked(wheels, site) == []
    assert not site.exists()  # no version of an earlier time is left


def test_of_bitsandbytes_only_the_library_of_one_cuda_travels(tmp_path: Path) -> None:
    path = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    libraries = [f"bitsandbytes/libbitsandbytes_{build}.so" for build in ("cpu", "cuda128", "cuda130", "rocm70")]
    with zipfile.ZipFile(path, "w") as wheel:
        for name in ("bitsandbytes/__init__.py", *libraries):
            wheel.writestr(name, name)
    keep_one_library(path, "130")
    with zipfile.ZipFile(path) as wheel:
        assert wheel.namelist() == ["bitsandbytes/__init__.py", libraries[0], libraries[2]]
        assert wheel.read(libraries[2]).decode() == libraries[2]
    with pytest.raises(SystemExit, match="no library for CUDA 118"):
        keep_one_library(path, "118")


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="what travels is what git tracks: a checkout shows it")
def test_the_repository_leaves_room_for_the_wheels(tmp_path: Path) -> None:
    # the wheels take 7 MiB (make gpu-wheels says the sum and refuses more than the limit)
    assert travels_mib(tmp_path) + 10 < LIMIT_MIB
