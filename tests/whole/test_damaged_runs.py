"""A run whose files beside its checkpoints were damaged goes on, or says which file it was and what to do.

tests/chaos/damage.py damages the checkpoints themselves, and tests/cli/test_strange_runs.py asks the front half alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ftcli.core.exit_codes import EXIT_CONFIG, EXIT_DONE
from ftcli.runs import rundir
from tests.cli.strange_runs import BEFORE, DAMAGE, RETENTION, print_of
from tests.conftest import MakeOnce
from tests.whole.conftest import Train

pytestmark = pytest.mark.slow
WORDS = (
    "train", "hardware=cpu", "hardware.num_threads=1", "data.max_rows=16", "data.max_eval_rows=2",
    "run.score_rows=2", "train.save_strategy=steps",
    "train.save_steps=1", "train.eval_strategy=no",
)  # fmt: skip
NEEDED = {BEFORE: "remove it; the run then goes on without", RETENTION: "start a new run with ftcli train --from"}
"""Files without whose content a resumed run would tell something wrong, and the remedy that is named."""
WRITTEN_ANEW = (rundir.LEDGER, rundir.ANSWERS, rundir.PHASES, rundir.DROPPED)


@pytest.fixture(scope="module")
def stopped(once: MakeOnce, ftcli_run: Train) -> Path:
    """The folder of a run that was killed after its first checkpoint."""

    def make(folder: Path) -> None:
        ftcli_run(*WORDS, "run.gate={retention: -50.0}", "train.max_steps=2", "peft=lora", "run.dir=run", cwd=folder)
        run = folder / "run"
        shutil.rmtree(run / rundir.MODEL)
        shutil.rmtree(run / rundir.CHECKPOINTS / "checkpoint-2")
        for name in (rundir.RESULT, rundir.END):
            (run / name).unlink()

    return once("stopped", make)


@pytest.mark.parametrize("damage", ["cut", "list", "deep"])
@pytest.mark.parametrize("file", NEEDED)
def test_one_that_is_needed_is_named_with_the_remedy(
    file: str, damage: str, stopped: Path, tmp_path: Path, ftcli_run: Train
):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    DAMAGE[damage](run / file)
    kept = (run / file).read_bytes(), (run / rundir.METRICS).read_bytes()
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_CONFIG).stderr
    assert f"{run / file}  is damaged" in said
    assert f"fix: {NEEDED[file]}" in said
    assert "Traceback" not in said
    assert kept == ((run / file).read_bytes(), (run / rundir.METRICS).read_bytes())
    assert not (run / rundir.RESULT).exists()


@pytest.mark.parametrize("damage", ["list", "deep"])
def test_those_that_are_written_anew_do_not_stop_it(damage: str, stopped: Path, tmp_path: Path, ftcli_run: Train):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    for file in WRITTEN_ANEW:
        DAMAGE[damage](run / file)
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_DONE).stderr
    assert "Traceback" not in said
    result = rundir.read_result(run)
    assert result is not None
    assert result["steps"] == 2


def test_a_pipe_in_its_place_is_named_and_not_waited_for(stopped: Path, tmp_path: Path, ftcli_run: Train):
    run = Path(shutil.copytree(stopped / "run", tmp_path / "run"))
    DAMAGE["pipe"](run / rundir.DROPPED)
    said = ftcli_run("train", "--resume", "run", cwd=tmp_path, expect=EXIT_CONFIG).stderr
    assert f"{run / rundir.DROPPED}  is no file but a pipe" in said


@pytest.fixture(scope="module")
def finished(once: MakeOnce, ftcli_run: Train) -> Path:
    """The folder of two finished runs, one of an adapter and one of all parameters."""

    def make(folder: Path) -> None:
        for peft in ("lora", "none"):
            ftcli_run(*WORDS, "train.max_steps=1", f"peft={peft}", f"run.dir={peft}", cwd=folder)

    return once("finished", make)


READ = (
    ("generate", "RUN", "Hello.", "--max-new-tokens", "2"),
    ("eval", "RUN", "--measure", "perplexity", "--rows", "1"),
    ("merge", "RUN", "--to", "merged"),
    ("export", "RUN", "--out", "exported"),
)


@pytest.mark.parametrize(
    ("peft", "file", "damage"),
    [
        ("lora", "adapter_model.safetensors", "cut"),
        ("lora", "adapter_model.safetensors", "nulls"),
        ("lora", "generation_config.json", "list"),
        ("lora", "tokenizer.json", "deep"),
        ("lora", "tokenizer_config.json", "number"),
        ("none", "model.safetensors", "cut"),
        ("none", "model.safetensors", "empty"),
        ("none", "config.json", "no-text"),
    ],
)
def test_a_damaged_file_of_a_model_is_named_by_whoever_loads_it(
    peft: str, file: str, damage: str, finished: Path, tmp_path: Path, ftcli_run: Train
):
    run = Path(shutil.copytree(finished / peft, tmp_path / peft))
    DAMAGE[damage](run / rundir.MODEL / file)
    before = print_of(run)
    for words in READ if peft == "lora" else READ[:2]:
        done = ftcli_run(*(peft if word == "RUN" else word for word in words), cwd=tmp_path, expect=EXIT_CONFIG)
        assert file in done.stderr, words
        assert "fix: " in done.stderr
        assert "Traceback" not in done.stderr
    assert print_of(run) == before
    assert [each.name for each in tmp_path.iterdir()] == [peft]
