"""MLX reads the folder that `ftcli export` writes, and its server answers as trained; on a CPU."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.core.exit_codes import EXIT_GATE
from tests.conftest import MakeOnce
from tests.external import smollm2
from tests.external.deployed.programs import NEEDS_MLX, serving, with_programs
from tests.served_models import ROWS, TRAIN, Found, by_part, make_base

pytestmark = NEEDS_MLX
Verified = Callable[..., Found]


@pytest.fixture(scope="module")
def made(once: MakeOnce) -> Path:
    """A run with LoRA, whose export is `out`."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            make_base(folder / "base")
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
            assert main(list(TRAIN)) == 0
            assert main(["export", "run", "--out", "out"]) == 0
            assert main(["export", "run", "--dtype", "bfloat16", "--out", "rounded"]) == 0

    return once("mlx", make)


@pytest.fixture
def verified(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verified:
    """What verify says of a folder that the server at an address loads: part → state and detail."""
    monkeypatch.chdir(made)

    def run(at: str, folder: Path, *, run: str = "run", faulty: bool = False) -> Found:
        capsys.readouterr()
        words = ["verify", run, "--at", at, "--as", str(folder), "--rows", "6", "--max-new-tokens", "16", "--json"]
        assert main(words) == (EXIT_GATE if faulty else 0)
        return by_part(json.loads(capsys.readouterr().out)["verdicts"])

    return run


def test_mlx_answers_as_ftcli_does(made: Path, capsys: pytest.CaptureFixture[str]):
    asked = "Say the number 7."
    words = ["mlx_lm.generate", "--model", "out", "--prompt", asked, "--max-tokens", "16", "--temp", "0"]
    environment = with_programs()
    done = subprocess.run(words, cwd=made, env=environment, capture_output=True, text=True, check=True, timeout=120)
    capsys.readouterr()
    assert main(["generate", str(made / "run"), asked, "--max-new-tokens", "16"]) == 0
    answer = capsys.readouterr().out.strip().splitlines()[-1]
    assert answer in done.stdout.splitlines()


def test_the_line_that_export_prints_serves_what_was_trained_and_other_folders_are_named(made, verified, capsys):
    assert main(["export", str(made / "run"), "--out", str(made / "again"), "--json"]) == 0
    [line] = [line for line in json.loads(capsys.readouterr().out)["next"] if line.startswith("mlx_lm.server")]
    with serving(shlex.split(line, comments=True), made) as address:
        found = verified(address, made / "again")
        assert {state for state, _ in found.values()} == {"ok"}
        assert found["weights"][1].startswith("those of the run: log-probabilities differ by ")
        found = verified(address, made / "rounded")
        assert (found["weights"][0], found["weights"][1].split(",")[0]) == ("note", "rounded")
        state, detail = verified(address, made / "base", faulty=True)["weights"]
        assert (state, detail.split(",")[0]) == ("fault", "the model before training")


@smollm2.NEEDED[0]
@smollm2.NEEDED[1]
def test_smollm2_with_lora_is_served_as_trained(verified: Verified, tmp_path: Path):
    real = smollm2.trained(smollm2.copied(tmp_path / "smollm2"), tmp_path / "real")
    assert main(["export", str(real), "--dtype", "float32", "--out", str(tmp_path / "out")]) == 0
    with serving(["mlx_lm.server", "--model", "out"], tmp_path) as address:
        found = verified(address, tmp_path / "out", run=str(real))
    assert {state for state, _ in found.values()} <= {"ok", "note"}
    assert found["weights"][0] == "ok"
